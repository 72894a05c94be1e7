"""Chat rooms in the browser with a bot that answers through a queue.

What a member says goes to everybody in the room at once, and into the queue. The bot answers each
member once for what that member said in a row.

Run it: pip install fastapi uvicorn websockets; python examples/fastapi_room.py
Then open http://127.0.0.1:8000 in two windows. Rooms live in this process, so run one of it.
"""

import asyncio
import contextlib
import os
import socket
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Path, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

from chinwag import Batch, Queue, QueueClosed, QueueFull

Outbox = asyncio.Queue[dict[str, str]]
"""What a member has still to be sent."""

queue: Queue[str] = Queue(quiet_s=1, capacity_per_group=100, close_timeout_s=10)
app = FastAPI(lifespan=queue.lifespan)
rooms: dict[str, set[Outbox]] = {}


@queue.handler
async def answer(batch: Batch[str]) -> None:
    await asyncio.sleep(0.3)  # here a model would think
    tell(batch.group, "bot", f"@{batch.sender}: you said {' / '.join(batch.payloads)}")


@app.websocket("/rooms/{room}")
async def join(
    websocket: WebSocket,
    room: Annotated[str, Path(max_length=40)],
    name: Annotated[str, Query(min_length=1, max_length=40)],
) -> None:
    await websocket.accept()
    outbox = Outbox(100)
    rooms.setdefault(room, set()).add(outbox)
    tell(room, "*", f"{name} is here")
    try:
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(write(websocket, outbox))
            while (message := await websocket.receive())["type"] != "websocket.disconnect":
                if text := message.get("text"):
                    say(room, name, text, outbox)
            writing.cancel()
    except* (WebSocketDisconnect, TimeoutError):
        pass  # gone, or too slow to be waited for
    finally:
        rooms[room].discard(outbox)
        if not rooms[room]:
            del rooms[room]
        tell(room, "*", f"{name} left")


def say(room: str, name: str, text: str, outbox: Outbox) -> None:
    tell(room, name, text)
    try:
        queue.put_nowait(room, name, text)
    except QueueFull:
        post(outbox, "*", "the bot is behind and has not taken that; try again in a moment")
    except QueueClosed:
        post(outbox, "*", "the bot is leaving and has not taken that")
    # With ids, `id=`, there would also be Rejected: a duplicate, which needs no answer.


def tell(room: str, sender: str, text: str) -> None:
    """Tell everybody in a room, all in the same order; nobody is waited for."""
    for outbox in rooms.get(room, ()):
        post(outbox, sender, text)


def post(outbox: Outbox, sender: str, text: str) -> None:
    if not outbox.full():  # otherwise its member is far behind, and misses this
        outbox.put_nowait({"sender": sender, "text": text})


async def write(websocket: WebSocket, outbox: Outbox) -> None:
    """Send a member what there is, at the pace of that member and for as long as it takes any."""
    while True:
        line = await outbox.get()
        async with asyncio.timeout(10):
            await websocket.send_json(line)
        outbox.task_done()


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


class Server(uvicorn.Server):
    """Lets the bot answer what it has been asked before the members are sent away.

    uvicorn itself closes every WebSocket (code 1012) before it ends the lifespan. Without this
    class the queue loses nothing either, but the last answers are given to empty rooms.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await queue.aclose()  # what is said from now on is refused
        sent = [outbox.join() for members in rooms.values() for outbox in members]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*sent), timeout=2)
        await super().shutdown(sockets)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>chinwag</title>
<style>
  body { font: 1rem/1.6 system-ui; max-width: 36rem; margin: 2rem auto; padding: 0 1rem }
  input { font: inherit; width: 100%; padding: .4rem; box-sizing: border-box }
</style>
<form><input autofocus placeholder="your name" maxlength="40" autocomplete="off"></form>
<div id="log"></div>
<script>
  const form = document.querySelector("form"), input = document.querySelector("input");
  const room = location.hash.slice(1) || "lobby";  // another one: http://127.0.0.1:8000/#den
  let socket;

  function show(sender, text) {
    const line = document.createElement("div");
    line.textContent = sender === "*" ? `* ${text}` : `${sender}: ${text}`;
    document.querySelector("#log").prepend(line);
  }

  function enter(name) {
    const origin = location.origin.replace("http", "ws");
    const opened = new WebSocket(`${origin}/rooms/${room}?name=${encodeURIComponent(name)}`);
    opened.onopen = () => { socket = opened; input.placeholder = "say something, and more" };
    opened.onclose = () => { socket = null; input.placeholder = "your name"; show("*", "offline") };
    opened.onmessage = event => {
      const line = JSON.parse(event.data);
      show(line.sender, line.text);
    };
  }

  form.onsubmit = event => {
    event.preventDefault();
    if (input.value) socket ? socket.send(input.value) : enter(input.value);
    input.value = "";
  };
</script>
</html>
"""


if __name__ == "__main__":
    config = uvicorn.Config(
        app,
        port=int(os.environ.get("PORT", "8000")),
        ws_max_size=4_000,
        timeout_graceful_shutdown=5,  # for members whose connection hangs
    )
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run()
