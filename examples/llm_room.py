"""Chat rooms in the browser with a language model that begins to think at once.

A member's message waits for nothing. If the same member goes on while the model thinks, that call
is ended, nobody has seen anything of it, and the model is asked about both. Once it has made up its
mind it speaks, word by word, and nothing interrupts it any more.

Run it: pip install fastapi uvicorn websockets; python examples/llm_room.py
Then open http://127.0.0.1:8000 in two windows. Rooms live in this process, so run one of it.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from random import Random
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Path, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

from chinwag import Batch, Context, Dropped, Queue, QueueClosed, QueueFull, Receipt, Restarted

Outbox = asyncio.Queue[dict[str, str]]
"""What a member has still to be sent."""


class Model:
    """Stands for a language model: it thinks, and then speaks, 0.5 to 3 s in all."""

    def __init__(self, shortest_s: float = 0.5, longest_s: float = 3, seed: int = 7) -> None:
        self.shortest_s = shortest_s
        self.longest_s = longest_s
        self.random = Random(seed)

    async def think(self, said: list[str]) -> list[str]:
        await asyncio.sleep(self.half_s())
        return ["you", "said", *" / ".join(said).split()]

    async def speak(self, words: list[str]) -> AsyncIterator[str]:
        pause_s = self.half_s() / len(words)
        for word in words:
            await asyncio.sleep(pause_s)
            yield word

    def half_s(self) -> float:
        return self.random.uniform(self.shortest_s, self.longest_s) / 2


model = Model()
rooms: dict[str, set[Outbox]] = {}
readers: set[asyncio.Task[None]] = set()
queue: Queue[str] = Queue(
    quiet_s=0,
    on_busy="rollback",
    interrupt_within_s=5,
    capacity_per_group=100,
    close_timeout_s=10,
)
app = FastAPI(lifespan=queue.lifespan)


@queue.handler
async def answer(batch: Batch[str], ctx: Context) -> None:
    words = await model.think(batch.payloads)  # a follow-up ends it here
    ctx.commit()  # from here on the room reads it
    async for word in model.speak([f"@{batch.sender}:", *words]):
        ctx.emit((batch.primary.id, word, "speaks"))
    ctx.emit((batch.primary.id, "", "done"))


async def read(room: str, receipt: Receipt) -> None:
    """Tell a room what the model says to a message.

    What is said to several at once is in the stream of each; the last one's tells the room.
    """
    try:
        async for item in receipt.stream():
            if isinstance(item, Restarted):  # not under rollback, where nothing is taken back
                tell(room, "bot", "", answer=receipt.id, state="again")
            elif item[0] == receipt.id:
                tell(room, "bot", item[1], answer=receipt.id, state=item[2])
    except Dropped as dropped:
        tell(room, "*", f"the bot has no answer to that: {dropped.end}")


def say(room: str, name: str, text: str, outbox: Outbox) -> None:
    tell(room, name, text)
    try:
        receipt = queue.put_nowait(room, name, text)
    except QueueFull:
        post(outbox, "*", "the bot is behind and has not taken that; try again in a moment")
    except QueueClosed:
        post(outbox, "*", "the bot is leaving and has not taken that")
    else:
        reader = asyncio.create_task(read(room, receipt))
        readers.add(reader)
        reader.add_done_callback(readers.discard)


@app.websocket("/rooms/{room}")
async def join(
    websocket: WebSocket,
    room: Annotated[str, Path(max_length=40)],
    name: Annotated[str, Query(min_length=1, max_length=40)],
) -> None:
    await websocket.accept()
    outbox = Outbox(1_000)
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


def tell(room: str, sender: str, text: str, **more: str) -> None:
    """Tell everybody in a room, all in the same order; nobody is waited for."""
    for outbox in rooms.get(room, ()):
        post(outbox, sender, text, **more)


def post(outbox: Outbox, sender: str, text: str, **more: str) -> None:
    if not outbox.full():  # otherwise its member is far behind, and misses this
        outbox.put_nowait({"sender": sender, "text": text, **more})


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

    docs/servers.md tells why.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await queue.aclose()  # what is said from now on is refused
        await asyncio.gather(*readers)
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
  const answers = new Map();  // by their names, the lines that grow
  let socket;

  function show(sender, text) {
    const line = document.createElement("div");
    line.textContent = sender === "*" ? `* ${text}` : `${sender}: ${text}`;
    document.querySelector("#log").prepend(line);
    return line;
  }

  function grow(said) {
    const line = answers.get(said.answer) ?? show(said.sender, "");
    answers.set(said.answer, line);
    line.textContent += ` ${said.text}`;
    if (said.state === "again") line.remove();
    if (said.state !== "speaks") answers.delete(said.answer);
  }

  function enter(name) {
    const origin = location.origin.replace("http", "ws");
    const opened = new WebSocket(`${origin}/rooms/${room}?name=${encodeURIComponent(name)}`);
    opened.onopen = () => { socket = opened; input.placeholder = "say something, and more" };
    opened.onclose = () => { socket = null; input.placeholder = "your name"; show("*", "offline") };
    opened.onmessage = event => {
      const said = JSON.parse(event.data);
      said.answer ? grow(said) : show(said.sender, said.text);
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
