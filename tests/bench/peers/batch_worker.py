"""The batch worker: what waits is taken together, and a pipeline call has all that may share it.

aiokafka's `getmany`, which FastStream's batch subscriber is made of too.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from tests.bench.peers.painting import Painter, groups
from tests.bench.peers.wiring import Publisher, consumer, say_ready

WINDOW = 64
"""Records that are looked at together: eight calls' worth. More fill calls better and are rendered again by a crash."""


async def main(window: int) -> None:
    painter = Painter.from_environment()
    async with consumer() as records, Publisher() as publisher:
        say_ready()
        while True:
            taken = await records.getmany(timeout_ms=1000, max_records=window)
            requests = [json.loads(record.value) for batch in taken.values() for record in batch]
            for places in groups(requests):
                together = [requests[place] for place in places]
                pictures = await asyncio.to_thread(painter.paint, together)
                await asyncio.gather(*map(publisher.publish, together, pictures))
            if requests:
                await records.commit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=WINDOW)
    asyncio.run(main(parser.parse_args().window))
