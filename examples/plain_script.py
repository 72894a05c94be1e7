"""A bot in one file: several quick messages of one person become one answer.

Run it: python examples/plain_script.py
"""

import asyncio

from chinwag import Batch, Queue

queue: Queue[str] = Queue(quiet_s=0.3)


@queue.handler
async def answer(batch: Batch[str]) -> str:
    await asyncio.sleep(0.1)  # here a model would think
    return f"@{batch.sender}: you said {' / '.join(batch.payloads)}"


async def main() -> None:
    chat = [
        ("ann", "hey"),
        ("ann", "can you"),
        ("bob", "what time is it?"),
        ("ann", "summarise this thread?"),
    ]
    async with queue:
        receipts = []
        for sender, text in chat:
            receipts.append(queue.put_nowait("room-7", sender, text))
            await asyncio.sleep(0.1)  # people type
        for answer in dict.fromkeys([await receipt for receipt in receipts]):
            print(answer)


if __name__ == "__main__":
    asyncio.run(main())
