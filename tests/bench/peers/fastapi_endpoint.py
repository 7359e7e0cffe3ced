"""The deployment guide's endpoint: a resident pipeline, one request at a time, the picture is the answer."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, UploadFile
from fastapi.responses import FileResponse

from tests.bench.peers.painting import Painter
from tests.bench.peers.wiring import say_ready


class ModelService:
    """Loads once, keeps it."""

    _painter: Painter | None = None

    @classmethod
    def get_generator(cls) -> Painter:
        if cls._painter is None:
            cls._painter = Painter.from_environment()
        return cls._painter


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    say_ready()
    yield


app = FastAPI(lifespan=lifespan)
generator = ModelService.get_generator()


@app.post("/generate")
async def generate_image(
    prompt: str,
    steps: int = 25,
    guidance_scale: float = 5.0,
    seed: int = 0,
    width: int = 1024,
    height: int = 1024,
    pose: Annotated[UploadFile | None, File()] = None,
) -> FileResponse:
    request = {"prompt": prompt, "steps": steps, "guidance_scale": guidance_scale, "seed": seed}
    request |= {"width": width, "height": height}
    if pose is not None:
        request["pose"] = {"image": {"inline": base64.b64encode(await pose.read()).decode()}}
    # As in the guide: the call holds the event loop, so that there is one at a time.
    [picture] = generator.paint([request])
    with tempfile.NamedTemporaryFile(delete=False, suffix=".png") as output:
        output.write(picture)
    return FileResponse(output.name)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
