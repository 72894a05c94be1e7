"""A bot that listens to a room and speaks when it is mentioned, about what it has heard.

Run it: python examples/digest.py
"""

import asyncio
from collections import Counter

from chinwag import Batch, Queue

# An hour-old remark is no context any more, and a prompt holds so many.
queue: Queue[str] = Queue(quiet_s=3, context_limit=100, context_ttl_s=3600)


def hear(room: str, sender: str, text: str) -> None:
    """What the chat platform calls for every message of every room."""
    mentioned = "@bot" in text
    queue.put_nowait(room, sender, text, context=not mentioned, flush=mentioned)


@queue.handler
async def answer(batch: Batch[str]) -> None:
    await asyncio.sleep(0.1)  # here a model would read batch.context
    heard = Counter(message.sender for message in batch.context)
    who = ", ".join(f"{sender} {count}" for sender, count in heard.most_common())
    print(f"@{batch.sender}: since I last spoke I heard {who or 'nothing'}")


async def main() -> None:
    async with queue:
        hear("room-7", "ann", "the build is red again")
        hear("room-7", "bob", "which one?")
        hear("room-7", "ann", "the nightly, since tuesday")
        hear("room-7", "cyd", "@bot what did I miss?")
        await queue.join()
        hear("room-7", "bob", "fixed")
        hear("room-7", "ann", "@bot anything new?")
        await queue.join()


if __name__ == "__main__":
    asyncio.run(main())
