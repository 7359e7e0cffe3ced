"""Proves that OpenAI's own client generates and streams through the gateway, and is told what it did wrong.

The client is openai-python, over a real connection; a worker's part is played by the house.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import httpx
import openai
import pytest
from PIL import Image

from darkroom.producer.gateway.openai.orders import order_of
from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.request import GenerationRequest
from tests.producer.gateway.house import House, Replica, failure_of, png, problem, progress_of

LIMIT_S = 20
MODELS = ("darkroom",)
ResultT = TypeVar("ResultT")


@contextlib.asynccontextmanager
async def client_of(replica: Replica, key: str = "studio-key") -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        replica.on_a_port() as url,
        httpx.AsyncClient(trust_env=False) as http,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, http_client=http, timeout=LIMIT_S) as client,
    ):
        yield client


async def sent_to(house: House, count: int = 1) -> GenerationRequest:
    async with asyncio.timeout(LIMIT_S):
        while len(house.kafka.sent) < count:
            await asyncio.sleep(0.01)
    return house.kafka.sent[count - 1]


async def worked_off(house: House, replica: Replica, calling: Awaitable[ResultT], code: ErrorCode | None = None) -> Any:
    """The answer to a call whose job a worker ends."""
    task = asyncio.ensure_future(calling)
    request = await sent_to(house)
    completion = await house.decide(request, None if code is None else failure_of(request, code))
    replica.gateway.services.hub.on_completion(completion)
    return await task


async def test_the_official_client_generates(house: House, replica: Replica) -> None:
    async with client_of(replica) as client:
        answer = await worked_off(
            house,
            replica,
            client.images.generate(
                model="darkroom",
                prompt="a dancer",
                n=2,
                size="1024x768",
                quality="high",
                output_format="webp",
                output_compression=80,
                user="visitor-7",
                extra_body={"seed": 7, "negative_prompt": "blurry", "steps": 30},
            ),
        )
    sent = house.kafka.sent[0]
    assert (sent.prompt, sent.count, sent.width, sent.height, sent.preset) == ("a dancer", 2, 1024, 768, "quality")
    assert (sent.output.format, sent.output.quality, sent.seed, sent.steps) == ("webp", 80, 7, 30)
    assert (sent.negative_prompt, sent.labels, sent.tenant) == ("blurry", {"user": "visitor-7"}, "studio")
    [picture] = answer.data
    assert base64.b64decode(picture.b64_json) == png(64, 48)
    assert (answer.size, answer.output_format, answer.background) == ("64x48", "png", "opaque")
    assert answer.created > 1_700_000_000


def picture_of(side: int = 64, hole: tuple[int, int, int, int] | None = None) -> bytes:
    """A PNG, transparent within `hole`."""
    picture = Image.new("RGBA", (side, side), (200, 30, 60, 255))
    if hole is not None:
        picture.paste((0, 0, 0, 0), hole)
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


async def upload_of(house: House, picture: Any) -> Image.Image:
    content = await house.objects.get(picture.key, bytes_max=2**20)
    assert content is not None
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("is_own", [False, True])
async def test_the_official_client_edits(house: House, replica: Replica, is_own: bool) -> None:
    hole = (16, 16, 48, 40)
    asked = (
        {"image": picture_of(hole=hole)} if is_own else {"image": picture_of(), "mask": picture_of(32, (8, 8, 24, 20))}
    )
    async with client_of(replica) as client:
        answer = await worked_off(
            house, replica, client.images.edit(prompt="a dancer", n=2, extra_body={"seed": 7}, **asked)
        )
    [sent] = house.kafka.sent
    assert sent.init is not None
    assert sent.mask is not None
    assert (sent.prompt, sent.count, sent.seed, sent.width, sent.height) == ("a dancer", 2, 7, 64, 64)
    assert sent.init.strength == 1.0
    assert (await upload_of(house, sent.init.image)).size == (64, 64)
    mask = (await upload_of(house, sent.mask.image)).convert("L").resize((64, 64), Image.Resampling.NEAREST)
    assert mask.getbbox() == hole, "what is transparent is painted"
    assert base64.b64decode(answer.data[0].b64_json) == png(64, 48)


async def test_an_edit_without_a_mask_paints_all_of_the_picture_anew(house: House, replica: Replica) -> None:
    async with client_of(replica) as client:
        stream = await client.images.edit(prompt="a dancer", image=picture_of(100), stream=True)
        request = await sent_to(house)
        replica.gateway.services.hub.on_completion(await house.decide(request))
        events = [event.type async for event in stream]
    assert request.init is not None
    assert (request.init.strength, request.mask, request.width, request.height) == (0.6, None, 96, 96)
    assert events == ["image_edit.completed"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"image": [picture_of(), picture_of()]}, None),
        ({"image": picture_of(), "mask": picture_of()}, "mask"),
        ({"image": b"no picture"}, None),
        ({"image": picture_of(), "input_fidelity": "high"}, "input_fidelity"),
    ],
)
async def test_an_edit_that_cannot_be_made_is_refused(
    house: House, replica: Replica, given: dict[str, Any], param: str | None
) -> None:
    async with client_of(replica) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.images.edit(prompt="a dancer", **given)
    assert refused.value.status_code in (400, 415)
    assert refused.value.param == param  # type: ignore[attr-defined]
    assert house.kafka.sent == []


async def test_addresses_are_given_where_callers_can_reach_them() -> None:
    house = House(public_url="https://pictures.example/api")
    async with house.gateway() as replica, client_of(replica) as client:
        answer = await worked_off(house, replica, client.images.generate(prompt="a dancer", response_format="url"))
        request_id = house.kafka.sent[0].request_id
        assert answer.data[0].url == f"https://pictures.example/api/v1/generations/{request_id}/images/0"


async def test_without_an_address_that_is_said_before_anything_is_sent(house: House, replica: Replica) -> None:
    async with client_of(replica) as client:
        with pytest.raises(openai.BadRequestError, match="b64_json") as caught:
            await client.images.generate(prompt="a dancer", response_format="url")
    assert caught.value.param == "response_format"
    assert house.kafka.sent == []


async def test_the_official_client_streams_previews_and_the_picture(house: House, replica: Replica) -> None:
    async with client_of(replica) as client, asyncio.timeout(LIMIT_S):
        stream = await client.images.generate(prompt="a dancer", stream=True, partial_images=2, quality="low")
        request = await sent_to(house)
        assert request.progress == "previews"
        hub = replica.gateway.services.hub
        while not hub.watches:
            await asyncio.sleep(0.01)
        hub.on_progress(progress_of(request, 3, "/9j/aaaa"))  # before a third of the steps
        events = aiter(stream)
        hub.on_progress(progress_of(request, 8, "/9j/bbbb"))
        first = await anext(events)
        assert (first.type, first.partial_image_index) == ("image_generation.partial_image", 0)
        assert (first.b64_json, first.output_format, first.quality) == ("/9j/bbbb", "jpeg", "low")
        hub.on_progress(progress_of(request, 20, "/9j/cccc"))
        assert (await anext(events)).b64_json == "/9j/cccc"
        hub.on_completion(await house.decide(request))
        [last] = [event async for event in events]
    assert last.type == "image_generation.completed"
    assert base64.b64decode(last.b64_json) == png(64, 48)
    assert (last.size, last.output_format) == ("64x48", "png")


async def test_a_stream_s_failure_is_raised_by_the_client(house: House, replica: Replica) -> None:
    async with client_of(replica) as client, asyncio.timeout(LIMIT_S):
        stream = await client.images.generate(prompt="a dancer", stream=True)
        request = await sent_to(house)
        replica.gateway.services.hub.on_completion(
            await house.decide(request, failure_of(request, ErrorCode.OUT_OF_MEMORY))
        )
        with pytest.raises(openai.APIError, match="it failed") as caught:
            [_ async for _ in stream]
    assert caught.value.code == "out_of_memory"


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (ErrorCode.PROMPT_REJECTED, openai.BadRequestError, "moderation_blocked"),
        (ErrorCode.CANCELLED, openai.ConflictError, "cancelled"),
        (ErrorCode.OUT_OF_MEMORY, openai.InternalServerError, "out_of_memory"),
    ],
)
async def test_a_failed_job_is_not_repeated_by_the_client(
    house: House, replica: Replica, code: ErrorCode, kind: type[openai.APIStatusError], said: str
) -> None:
    async with client_of(replica) as client:
        with pytest.raises(kind) as caught:
            await worked_off(house, replica, client.images.generate(prompt="a dancer"), code)
    assert caught.value.code == said
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(house.kafka.sent) == 1


async def test_a_call_that_takes_too_long_is_not_repeated_and_says_where_its_job_is() -> None:
    house = House(generate_timeout_s=1.0)
    async with house.gateway() as replica, client_of(replica) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.images.generate(prompt="a dancer")
    assert len(house.kafka.sent) == 1
    body: Any = caught.value.body
    assert body["status_url"].endswith(house.kafka.sent[0].request_id)


async def test_a_repetition_with_an_idempotency_key_joins_the_job(house: House, replica: Replica) -> None:
    async with client_of(replica) as client:
        key = {"Idempotency-Key": "order-7"}
        first = asyncio.ensure_future(client.images.generate(prompt="a dancer", extra_headers=key))
        request = await sent_to(house)
        second = await worked_off(house, replica, client.images.generate(prompt="a dancer", extra_headers=key))
        assert (await first).data == second.data
        replica.gateway.services.hub.on_completion(await house.decide(request))
    assert len({one.request_id for one in house.kafka.sent}) == 1


async def test_models_are_listed_and_another_is_not_found(replica: Replica) -> None:
    async with client_of(replica) as client:
        assert [model.id async for model in client.models.list()] == ["darkroom"]
        assert (await client.models.retrieve("darkroom")).object == "model"
        with pytest.raises(openai.NotFoundError, match="dall-e-3") as caught:
            await client.models.retrieve("dall-e-3")
        with pytest.raises(openai.NotFoundError):
            await client.images.generate(prompt="a dancer", model="dall-e-3")
    assert caught.value.code == "model_not_found"


async def test_a_wrong_key_and_an_unknown_path_have_their_shape_and_other_paths_have_ours(replica: Replica) -> None:
    async with client_of(replica, "stranger") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.images.generate(prompt="a dancer")
    answer = await replica.client.post("/v1/images/variations", json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "no_such_path"
    problem(await replica.client.get("/v1/generations/nobody"), 404, "no_such_job")


OPEN_WEBUI = {"model": "darkroom", "prompt": "a dancer", "n": 1, "size": "512x512", "response_format": "b64_json"}
"""As backend/open_webui/routers/images.py makes it, of open-webui at 02530d5."""
LIBRECHAT = {
    "model": "gpt-image-1",
    "prompt": "a dancer",
    "n": 1,
    "background": "auto",
    "output_format": "png",
    "quality": "auto",
    "size": "auto",
}
"""As api/app/clients/tools/structured/OpenAIImageTools.js makes it: the model's name is fixed there."""
DALL_E_3 = {"model": "dall-e-3", "prompt": "a dancer", "n": 1, "quality": "standard", "style": "vivid"}
"""As clients that were written for it send it."""


@pytest.mark.parametrize("body", [OPEN_WEBUI, LIBRECHAT, DALL_E_3, {"prompt": "a dancer", "n": None, "user": ""}])
def test_what_other_programs_send_is_understood(body: dict[str, Any]) -> None:
    document, _ = order_of(body, ("darkroom", "gpt-image-1", "dall-e-3"))
    GenerationRequest.model_validate({"request_id": "hello-1", **document})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"size": "big"}, "size"),
        ({"size": "1024x1024", "width": 512}, "size"),
        ({"size": 1024}, "size"),
        ({"n": 2, "count": 2}, "n"),
        ({"quality": "best"}, "quality"),
        ({"quality": ["high"]}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"style": "natural"}, "style"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_format": "png", "output_compression": 50}, "output_compression"),
        ({"output_compression": True}, "output_compression"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ({"output_format": "jpeg", "output": {"format": "png"}}, "output_format"),
        ({"response_format": "svg"}, "response_format"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"partial_images": 2}, "partial_images"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"frame_count": 9}, "frame_count"),
        ({"input_fidelity": "high"}, "input_fidelity"),
        ({"user": "x" * 257}, "user"),
        ({"user": 7}, "user"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Problem) as caught:
        order_of({"prompt": "a dancer", **body}, MODELS)
    assert caught.value.members["param"] == param
    assert param in caught.value.detail
