"""The plain worker: one record, one pipeline call, one upload, one completion, one commit."""

from __future__ import annotations

import asyncio
import json

from tests.bench.peers.painting import Painter
from tests.bench.peers.wiring import Publisher, consumer, say_ready


async def main() -> None:
    painter = Painter.from_environment()
    async with consumer() as records, Publisher() as publisher:
        say_ready()
        async for record in records:
            request = json.loads(record.value)
            # On a thread, so that heartbeats go on.
            [picture] = await asyncio.to_thread(painter.paint, [request])
            await publisher.publish(request, picture)
            await records.commit()


if __name__ == "__main__":
    asyncio.run(main())
