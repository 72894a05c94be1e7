"""A worker whose messages come from threads, as those of a threaded web server do.

The handler is a plain function, so it runs in a thread too.
Run it: python examples/webhook_threads.py
"""

import asyncio
import contextlib
import threading

from chinwag import Batch, Queue, Rejected

queue: Queue[dict[str, str]] = Queue(dedup_s=600, capacity=10_000)
handled: list[str] = []


@queue.handler
def work(batch: Batch[dict[str, str]]) -> None:
    handled.extend(message.id for message in batch)


def deliver(webhook: int) -> None:
    """What a request thread does; the platform delivers some messages twice."""
    for number in range(100):
        message_id = f"{webhook}-{number // 2}"
        with contextlib.suppress(Rejected):  # it is there already
            queue.put_nowait(f"room-{webhook}", "ann", {"text": "hi"}, id=message_id)


async def main() -> None:
    async with queue:
        threads = [threading.Thread(target=deliver, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        await queue.join()
    print(f"{len(handled)} messages handled, {queue.stats().refused['duplicate']} were duplicates")


if __name__ == "__main__":
    asyncio.run(main())
