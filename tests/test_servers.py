"""A queue in a real server: it lives as long as the application, and closing loses nothing.

The servers are real, on free ports of the loopback, and so are time and clients. Nothing sleeps:
every wait is for a message or for an end.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio  # type: ignore[import-untyped]
import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from chinwag import Batch, Queue
from chinwag.events import Event, MessageAccepted
from chinwag.testing import RecordingHandler

EXAMPLES = Path(__file__).parents[1] / "examples"
ROOM = EXAMPLES / "fastapi_room.py"
LLM_ROOM = EXAMPLES / "llm_room.py"
LOOPBACK = "127.0.0.1"
# Only a test that fails waits as long.
WATCHDOG_S = 30
# A window that only closing makes due.
LATE_S = 1_000.0

pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nobody has anything to complain about: no traceback, no task that was forgotten."""
    yield

    complaints = [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    assert [record.getMessage() for record in complaints] == []


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test, and see that nothing of it is left on the loop."""

    async def watched() -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await main
            left = asyncio.all_tasks() - {asyncio.current_task()}
            if left:  # on the point of ending
                await asyncio.wait(left)

    asyncio.run(watched())


@asynccontextmanager
async def serving(app: Any, make: type[uvicorn.Server] = uvicorn.Server) -> AsyncIterator[Served]:
    """Serve an ASGI application; has shut down, if the test did not ask for it, at the end."""
    listening = socket.create_server((LOOPBACK, 0))
    config = uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=5)
    served = Served(make(config), listening)
    try:
        yield served
    finally:
        await served.stop()


class Served:
    def __init__(self, server: uvicorn.Server, listening: socket.socket) -> None:
        self.address = f"{LOOPBACK}:{listening.getsockname()[1]}"
        self._server = server
        self._task = asyncio.create_task(server.serve(sockets=[listening]))

    def begin_to_stop(self) -> None:
        self._server.should_exit = True

    async def stop(self) -> None:
        """Shut down as a signal does."""
        self.begin_to_stop()
        await self._task


def drains_first(queue: Queue[Any]) -> type[uvicorn.Server]:
    """A server that closes the queue while its clients are connected."""

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await queue.aclose()
            await super().shutdown(sockets)

    return Server


@contextmanager
def acceptances(queue: Queue[Any]) -> Iterator[asyncio.Queue[MessageAccepted]]:
    """Collect what is accepted, for those who wait for it."""
    accepted: asyncio.Queue[MessageAccepted] = asyncio.Queue()

    def note(event: Event) -> None:
        if isinstance(event, MessageAccepted):
            accepted.put_nowait(event)

    end = queue.subscribe(note)
    try:
        yield accepted
    finally:
        end()


def assert_all_done(queue: Queue[Any], messages: int) -> None:
    ledger = queue.check()
    assert (ledger.accepted, ledger.done) == (messages, messages)
    assert (ledger.waiting, ledger.running) == (0, 0)


# The example.


@pytest.fixture
def room() -> Any:
    """The example's module, as new."""
    return loaded(ROOM)


def loaded(example: Path) -> Any:
    spec = importlib.util.spec_from_file_location(example.stem, example)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entering(address: str, name: str, room: str = "den", **options: Any) -> connect:
    return connect(f"ws://{address}/rooms/{room}?name={name}", compression=None, **options)


async def line_of(member: ClientConnection, sender: str) -> str:
    """Read on until this sender says something."""
    while (line := json.loads(await member.recv()))["sender"] != sender:
        pass
    return str(line["text"])


async def close_code(member: ClientConnection) -> int | None:
    """Read on until the connection ends."""
    with suppress(ConnectionClosed):
        while True:
            await member.recv()
    return member.close_code


def test_quick_messages_of_a_member_get_one_answer(room: Any) -> None:
    async def main() -> None:
        async with (
            serving(room.app, room.Server) as served,
            entering(served.address, "ann") as ann,
            entering(served.address, "bob") as bob,
        ):
            for member, text in [(ann, "hey"), (bob, "what time is it?"), (ann, "can you help?")]:
                await member.send(text)

            for member in (ann, bob):
                assert {await line_of(member, "bot"), await line_of(member, "bot")} == {
                    "@ann: you said hey / can you help?",
                    "@bob: you said what time is it?",
                }

    run(main())
    assert_all_done(room.queue, 3)


def test_what_is_said_stays_in_its_room(room: Any) -> None:
    async def main() -> None:
        async with (
            serving(room.app, room.Server) as served,
            entering(served.address, "ann") as ann,
            entering(served.address, "bob", room="hall") as bob,
        ):
            await ann.send("hey")
            await line_of(ann, "ann")
            await bob.send("hello")
            heard = [json.loads(await bob.recv())["sender"] for _ in range(2)]

            served.begin_to_stop()
            heard.append(json.loads(await bob.recv())["sender"])

            assert heard == ["*", "bob", "bot"]
        assert room.rooms == {}

    run(main())


def test_due_answers_reach_the_room_before_it_closes(room: Any) -> None:
    async def main() -> None:
        async with (
            serving(room.app, room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await ann.send("goodbye")
            await line_of(ann, "ann")

            served.begin_to_stop()

            assert await line_of(ann, "bot") == "@ann: you said goodbye"
            assert await close_code(ann) == 1012

    run(main())
    assert_all_done(room.queue, 1)


def test_a_server_that_closes_rooms_first_loses_nothing(room: Any) -> None:
    """`uvicorn fastapi_room:app` does; the answer is given, though nobody is there to hear it."""

    async def main() -> None:
        async with serving(room.app) as served, entering(served.address, "ann") as ann:
            await ann.send("goodbye")
            await line_of(ann, "ann")

            served.begin_to_stop()

            assert await close_code(ann) == 1012

    run(main())
    assert_all_done(room.queue, 1)


def test_a_member_hears_that_the_bot_is_behind(room: Any) -> None:
    async def main() -> None:
        async with (
            serving(room.app, room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await line_of(ann, "*")
            for _ in range(100):
                room.queue.put_nowait("den", "bob", "so")

            await ann.send("hey")

            assert "has not taken that" in await line_of(ann, "*")
            room.queue.clear("den")

    run(main())


def test_a_member_hears_that_the_bot_is_leaving(room: Any) -> None:
    async def main() -> None:
        async with (
            serving(room.app, room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await line_of(ann, "*")
            await room.queue.aclose()

            await ann.send("hey")

            assert "is leaving" in await line_of(ann, "*")

    run(main())


def test_a_member_who_does_not_read_holds_up_nobody(room: Any) -> None:
    async def main() -> None:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.setblocking(False)
        async with serving(room.app, room.Server) as served:
            host, port = served.address.split(":")
            await asyncio.get_running_loop().sock_connect(narrow, (host, int(port)))
            async with (
                entering(served.address, "ann") as ann,
                entering(served.address, "bob", sock=narrow, max_queue=1) as bob,
            ):
                room.queue.pause("den")
                said = 0
                while not any(outbox.full() for outbox in room.rooms["den"]):
                    text = f"{said} {'so ' * 20_000}"
                    await ann.send(text)
                    assert await line_of(ann, "ann") == text
                    said += 1

                bob.transport.abort()

                while await line_of(ann, "*") != "bob left":
                    pass
                room.queue.clear()

    run(main())


def test_a_member_who_breaks_off_leaves_the_room(room: Any) -> None:
    async def main() -> None:
        async with (
            serving(room.app, room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await line_of(ann, "*")
            bob = await entering(served.address, "bob")
            await bob.send("hey")
            assert await line_of(ann, "*") == "bob is here"

            bob.transport.abort()

            assert await line_of(ann, "*") == "bob left"

    run(main())
    assert_all_done(room.queue, 1)


def test_the_page_enters_a_room(room: Any) -> None:
    async def main() -> None:
        async with (
            serving(room.app) as served,
            aiohttp.ClientSession() as session,
            session.get(f"http://{served.address}/") as page,
        ):
            assert page.content_type == "text/html"
            assert "new WebSocket" in await page.text()

    run(main())


def test_a_nameless_member_is_turned_away(room: Any) -> None:
    async def main() -> None:
        async with serving(room.app, room.Server) as served:
            with pytest.raises(InvalidStatus, match="403"):
                await entering(served.address, "")

    run(main())


def test_what_is_no_text_is_passed_over(room: Any) -> None:
    async def main() -> None:
        async with (
            serving(room.app, room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await ann.send(b"\x00")
            await ann.send("")
            await ann.send("hey")

            assert await line_of(ann, "ann") == "hey"

    run(main())
    assert_all_done(room.queue, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)], ids=["INT", "TERM"]
)
@pytest.mark.parametrize("example", [ROOM, LLM_ROOM], ids=lambda example: example.stem)
def test_the_program_ends_cleanly_on_a_signal(
    example: Path, sent: signal.Signals, code: int
) -> None:
    """Uvicorn raises the signal again once it has shut down; hence the code."""

    async def converse(address: str, stop: Callable[[], None]) -> None:
        async with entering(address, "ann") as ann:
            await ann.send("goodbye")
            await line_of(ann, "ann")

            stop()

            said = await (line_of(ann, "bot") if example == ROOM else spoken(ann))
            assert said == "@ann: you said goodbye"
            assert await close_code(ann) == 1012

    with subprocess.Popen(
        [sys.executable, "-X", "dev", example],
        env={**os.environ, "PORT": "0"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as program:
        try:
            assert program.stderr is not None
            address = None
            while address is None:
                line = program.stderr.readline()
                assert line, "it ended"
                address = re.search(rf"running on http://({LOOPBACK}:\d+)", line)
            run(converse(address[1], lambda: program.send_signal(sent)))
            _, said = program.communicate(timeout=WATCHDOG_S)
        finally:
            program.kill()

    assert program.returncode == code
    assert [word for word in ("Traceback", "ERROR", "destroyed", "Warning") if word in said] == []


# The example with a language model.


class Gate:
    """A model that thinks until it is told to speak."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[list[str]] = asyncio.Queue()
        self.may_speak = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def think(self, said: list[str]) -> list[str]:
        self.asked.put_nowait(said)
        await self.may_speak.wait()
        return said

    async def speak(self, words: list[str]) -> AsyncIterator[str]:
        for word in words:
            yield word
        await self.may_end.wait()


@pytest.fixture
def llm_room() -> Any:
    """The example's module, with a model in a hurry."""
    module = loaded(LLM_ROOM)
    module.model = module.Model(0.01, 0.02)
    return module


async def spoken(member: ClientConnection) -> str:
    """Read on until the bot has said an answer, and listen to nothing else."""
    words: dict[str, list[str]] = {}
    while True:
        line = json.loads(await member.recv())
        if line["sender"] != "bot":
            continue
        said = words.setdefault(line["answer"], [])
        if line["state"] == "done":
            return " ".join(said)
        said.append(line["text"])


def test_a_model_speaks_word_by_word(llm_room: Any) -> None:
    async def main() -> None:
        async with (
            serving(llm_room.app, llm_room.Server) as served,
            entering(served.address, "ann") as ann,
            entering(served.address, "bob") as bob,
        ):
            await ann.send("hey")

            assert [await spoken(member) for member in (ann, bob)] == ["@ann: you said hey"] * 2

    run(main())
    assert_all_done(llm_room.queue, 1)


def test_who_goes_on_while_it_thinks_gets_one_answer(llm_room: Any) -> None:
    """Nobody reads anything of the call that was ended, and the answer is said once."""
    llm_room.model = gate = Gate()

    async def main() -> None:
        async with (
            serving(llm_room.app, llm_room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await ann.send("can you")
            assert await gate.asked.get() == ["can you"]
            await ann.send("call bob?")
            assert await gate.asked.get() == ["can you", "call bob?"]

            gate.may_speak.set()

            assert await spoken(ann) == "@ann: can you call bob?"
            await ann.send("thanks")
            assert await spoken(ann) == "@ann: thanks"

    run(main())
    assert_all_done(llm_room.queue, 3)
    assert llm_room.queue.stats().interruptions == 1


def test_nothing_interrupts_it_once_it_speaks(llm_room: Any) -> None:
    llm_room.model = gate = Gate()
    gate.may_speak.set()
    gate.may_end.clear()

    async def main() -> None:
        async with (
            serving(llm_room.app, llm_room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await ann.send("can you")
            assert [await line_of(ann, "bot") for _ in range(2)] == ["@ann:", "can you"]
            await ann.send("call bob?")
            await line_of(ann, "ann")

            gate.may_end.set()

            assert await spoken(ann) == ""  # it has said all
            assert await spoken(ann) == "@ann: call bob?"

    run(main())
    assert llm_room.queue.stats().interruptions == 0


def test_members_do_not_interrupt_each_other(llm_room: Any) -> None:
    llm_room.model = gate = Gate()

    async def main() -> None:
        async with (
            serving(llm_room.app, llm_room.Server) as served,
            entering(served.address, "ann") as ann,
            entering(served.address, "bob") as bob,
        ):
            await ann.send("hey")
            await gate.asked.get()
            await bob.send("hello")
            await gate.asked.get()

            gate.may_speak.set()

            assert {await spoken(ann), await spoken(ann)} == {"@ann: hey", "@bob: hello"}

    run(main())
    assert llm_room.queue.stats().interruptions == 0


def test_what_is_left_unanswered_is_said(llm_room: Any) -> None:
    llm_room.model = gate = Gate()

    async def main() -> None:
        async with (
            serving(llm_room.app, llm_room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await ann.send("hey")
            await gate.asked.get()

            llm_room.queue.stop("den")

            while "abandoned" not in await line_of(ann, "*"):
                pass

    run(main())


def test_a_model_answers_before_its_room_closes(llm_room: Any) -> None:
    llm_room.model = gate = Gate()

    async def main() -> None:
        async with (
            serving(llm_room.app, llm_room.Server) as served,
            entering(served.address, "ann") as ann,
        ):
            await ann.send("goodbye")
            await gate.asked.get()

            served.begin_to_stop()
            gate.may_speak.set()

            assert await spoken(ann) == "@ann: goodbye"
            assert await close_code(ann) == 1012
        assert llm_room.readers == set()

    run(main())
    assert_all_done(llm_room.queue, 1)


def test_a_model_takes_as_long_as_is_drawn(llm_room: Any) -> None:
    drawn = [llm_room.Model(seed=3).half_s() for _ in range(2)]

    assert drawn[0] == drawn[1]
    assert 0.25 <= drawn[0] <= 1.5


# Starlette.


def starlette(queue: Queue[str]) -> Starlette:
    """Takes messages over HTTP; `/ask` answers with what becomes of them."""

    async def tell(request: Request) -> PlainTextResponse:
        queue.put_nowait("den", request.path_params["sender"], (await request.body()).decode())
        return PlainTextResponse("accepted", status_code=202)

    async def ask(request: Request) -> PlainTextResponse:
        text = (await request.body()).decode()
        receipt = queue.put_nowait("den", request.path_params["sender"], text)
        return PlainTextResponse(await receipt)

    return Starlette(
        lifespan=queue.lifespan,
        routes=[
            Route("/tell/{sender}", tell, methods=["POST"]),
            Route("/ask/{sender}", ask, methods=["POST"]),
        ],
    )


async def joined(batch: Batch[str]) -> str:
    return " / ".join(batch.payloads)


async def post(session: aiohttp.ClientSession, url: str, text: str) -> str:
    async with session.post(url, data=text) as response:
        assert response.ok
        return await response.text()


def test_starlette_answers_quick_requests_together() -> None:
    queue: Queue[str] = Queue(joined, quiet_s=LATE_S, max_batch=2)

    async def main() -> None:
        async with serving(starlette(queue)) as served, aiohttp.ClientSession() as session:
            url = f"http://{served.address}/ask/ann"
            answers = await asyncio.gather(post(session, url, "so"), post(session, url, "so"))

            assert set(answers) == {"so / so"}

    run(main())
    assert_all_done(queue, 2)


def test_starlette_handles_what_waits_as_it_ends() -> None:
    handler: RecordingHandler[str] = RecordingHandler()
    queue: Queue[str] = Queue(handler, quiet_s=LATE_S)

    async def main() -> None:
        async with serving(starlette(queue)) as served, aiohttp.ClientSession() as session:
            for text in ("hey", "can you"):
                await post(session, f"http://{served.address}/tell/ann", text)
            assert queue.status("den").waiting == 2

    run(main())
    assert [call.payloads for call in handler.calls] == [["hey", "can you"]]
    assert_all_done(queue, 2)


def test_a_request_that_waits_is_answered_as_the_server_ends() -> None:
    """Drained after the connections, the queue would wait for the request and it for the queue."""
    queue: Queue[str] = Queue(joined, quiet_s=LATE_S)

    async def main() -> None:
        with acceptances(queue) as accepted:
            async with (
                serving(starlette(queue), drains_first(queue)) as served,
                aiohttp.ClientSession() as session,
            ):
                url = f"http://{served.address}/ask/ann"
                asking = asyncio.create_task(post(session, url, "hey"))
                await accepted.get()

                served.begin_to_stop()

                assert await asking == "hey"

    run(main())
    assert_all_done(queue, 1)


# aiohttp.


@asynccontextmanager
async def aiohttp_room(queue: Queue[str]) -> AsyncIterator[tuple[web.AppRunner, str]]:
    """A room that says goodbye to its members once the queue is drained."""
    members: set[web.WebSocketResponse] = set()

    @queue.handler
    async def reply(batch: Batch[str]) -> None:
        for member in members:
            await member.send_str(" / ".join(batch.payloads))

    async def enter(request: web.Request) -> web.WebSocketResponse:
        member = web.WebSocketResponse()
        await member.prepare(request)
        members.add(member)
        try:
            async for message in member:
                queue.put_nowait("den", request.match_info["sender"], message.data)
        finally:
            members.discard(member)
        return member

    async def drain(_app: web.Application) -> None:
        await queue.aclose()
        for member in list(members):
            await member.close(code=aiohttp.WSCloseCode.GOING_AWAY)

    app = web.Application()
    app.router.add_get("/{sender}", enter)
    app.cleanup_ctx.append(queue.lifespan)
    app.on_shutdown.append(drain)
    runner = web.AppRunner(app)
    await runner.setup()
    listening = socket.create_server((LOOPBACK, 0))
    try:
        await web.SockSite(runner, listening).start()
        yield runner, f"http://{LOOPBACK}:{listening.getsockname()[1]}"
    finally:
        await runner.cleanup()


def test_aiohttp_answers_before_it_closes_connections() -> None:
    queue: Queue[str] = Queue(quiet_s=LATE_S, max_batch=2)

    async def main() -> None:
        with acceptances(queue) as accepted:
            async with (
                aiohttp_room(queue) as (runner, url),
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{url}/ann") as ann,
            ):
                for text in ("hey", "can you", "goodbye"):
                    await ann.send_str(text)
                    await accepted.get()
                assert await ann.receive_str() == "hey / can you"

                stopping = asyncio.create_task(runner.cleanup())

                assert await ann.receive_str() == "goodbye"
                assert (await ann.receive()).data == aiohttp.WSCloseCode.GOING_AWAY
                await stopping

    run(main())
    assert_all_done(queue, 3)


def test_aiohttp_takes_the_lifespan_for_cleanup() -> None:
    queue: Queue[str] = Queue(joined, quiet_s=LATE_S)
    app = web.Application()
    app.cleanup_ctx.append(queue.lifespan)

    async def main() -> None:
        runner = web.AppRunner(app)
        await runner.setup()
        queue.put_nowait("den", "ann", "hey")
        await runner.cleanup()

    run(main())
    assert_all_done(queue, 1)


# Socket.IO.


def socketio_room(queue: Queue[str]) -> socketio.ASGIApp:
    # It leaves a task behind that sleeps until the next ping.
    server = socketio.AsyncServer(async_mode="asgi", ping_interval=0.5)

    @queue.handler
    async def reply(batch: Batch[str]) -> None:
        await server.emit("answer", " / ".join(batch.payloads), room=batch.group)

    @server.event  # type: ignore[untyped-decorator]
    async def join(sid: str, room: str) -> None:
        await server.enter_room(sid, room)

    @server.event  # type: ignore[untyped-decorator]
    async def say(sid: str, room: str, text: str) -> None:
        queue.put_nowait(room, sid, text)

    async def stop() -> None:
        await queue.aclose()
        await server.shutdown()

    return socketio.ASGIApp(server, on_startup=queue.start, on_shutdown=stop)


@asynccontextmanager
async def socketio_client(address: str) -> AsyncIterator[socketio.AsyncSimpleClient]:
    async with aiohttp.ClientSession() as session:
        client = socketio.AsyncSimpleClient(reconnection=False, http_session=session)
        await client.connect(f"http://{address}", transports=["websocket"])
        try:
            yield client
        finally:
            await client.disconnect()


def test_socketio_members_get_one_answer() -> None:
    queue: Queue[str] = Queue(quiet_s=LATE_S, max_batch=2)

    async def main() -> None:
        async with (
            serving(socketio_room(queue), drains_first(queue)) as served,
            socketio_client(served.address) as ann,
        ):
            await ann.call("join", "den")
            for text in ("hey", "can you", "goodbye"):
                await ann.call("say", ("den", text))
            assert await ann.receive() == ["answer", "hey / can you"]

            served.begin_to_stop()

            assert await ann.receive() == ["answer", "goodbye"]
            # Not while the client is leaving: uvicorn fails to close a connection that closes.
            await served.stop()

    run(main())
    assert_all_done(queue, 3)


def test_socketio_handles_what_waits_as_it_ends() -> None:
    queue: Queue[str] = Queue(quiet_s=LATE_S)

    async def main() -> None:
        async with (
            serving(socketio_room(queue)) as served,
            socketio_client(served.address) as ann,
        ):
            await ann.call("join", "den")
            await ann.call("say", ("den", "hey"))

            await served.stop()

    run(main())
    assert_all_done(queue, 1)
