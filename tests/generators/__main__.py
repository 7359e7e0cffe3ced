"""The proof: `python -m tests.generators` makes every client, has it write requests, and prints a table.

Needs Node, Java with a compiler, and Maven; the generators are fetched below `--tools`, and kept there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from darkroom.schemas import publish
from tests.generators.clients import CLIENTS, Client, Documents
from tests.generators.orders import REQUESTS, wrong_with
from tests.generators.packages import StepFailedError, Tools, install, missing
from tests.producer.gateway.house import House


def documents(folder: Path) -> Documents:
    """Write the documents to a folder: the published ones and the gateway's own."""
    request, asyncapi = publish.write(folder, ("request", "asyncapi"))

    async def openapi() -> dict[str, object]:
        async with House().gateway() as replica:
            return replica.app.openapi()

    file = folder / "openapi.json"
    file.write_text(json.dumps(asyncio.run(openapi())), encoding="utf-8")
    return Documents(request.absolute(), asyncapi.absolute(), file.absolute())


def proved(client: Client, tools: Tools, files: Documents, folder: Path) -> str | None:
    """Make one client; return what is wrong with it or with what it wrote, None where nothing is."""
    folder.mkdir(parents=True)
    try:
        client.make(tools, files, folder)
    except StepFailedError as error:
        return str(error)
    found = [(name, wrong_with(name, folder, by_http=client.by_http)) for name in REQUESTS]
    return "; ".join(f"{name}: {wrong}" for name, wrong in found if wrong) or None


def main() -> int:
    """Print a line a client as it is done. Returns 1 where one is wrong, 2 where a program is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.generators", description=__doc__)
    parser.add_argument("--tools", type=Path, default=Path("~/.cache/darkroom/generators"), metavar="FOLDER",
                        help="where the generators are installed and kept (default: %(default)s)")  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave what was generated in this folder")
    parser.add_argument("--only", default="", metavar="TEXT", help="only clients with this in their names")
    given = parser.parse_args()
    if needed := missing():
        print(f"Not on the path: {', '.join(needed)}. Install Node, a JDK and Maven.", file=sys.stderr)
        return 2
    print("== Installing the generators: about 400 MB the first time", flush=True)
    try:
        tools = install(given.tools.expanduser().absolute())
    except StepFailedError as error:
        print(f"The generators cannot be installed: {error}", file=sys.stderr)
        return 2
    if given.keep is not None and given.keep.exists():
        shutil.rmtree(given.keep)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="generators-") as temporary:
        folder = Path(given.keep or temporary).absolute()
        files = documents(folder)
        for number, client in enumerate(one for one in CLIENTS if given.only.lower() in one.name.lower()):
            wrong = proved(client, tools, files, folder / f"{number:02}")
            failed += wrong is not None
            said = "the same requests" if wrong is None else f"WRONG: {wrong}"
            print(f"{client.generator:<34} {client.language:<11} {client.document:<12} {said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
