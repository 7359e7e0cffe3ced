"""Proves on real processes that pictures are signed, that gateway and store keep it, and that a crash costs none."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import c2pa
import httpx
import pytest
from typing_extensions import override

from darkroom.consumer.audit.audit import audit
from darkroom.consumer.provenance.verifying import Worth, are_whole, credentials_of
from darkroom.inference.marks import DIGITAL_SOURCE_TYPE
from darkroom.inference.watermark import look_for_mark
from darkroom.producer.client.client import Client
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from tests.chaos.proxy import CHUNK_BYTES, Proxy
from tests.consumer.credentials import Signer, silent_server
from tests.inference import infotext
from tests.integration.fleet import Fleet, until
from tests.integration.gateways import GatewayProcess

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


def signing_fleet(stack: Stack, folder: Path, **settings: str) -> tuple[Fleet, Signer]:
    signer = Signer(folder / "signer")
    fleet = Fleet(
        stack.environment,
        folder,
        DARKROOM_TOPICS__REQUESTS_PARTITIONS="1",
        DARKROOM_PROVENANCE__CERT_FILE=str(signer.chain),
        DARKROOM_PROVENANCE__KEY_FILE=str(signer.key),
        **settings,
    )
    return fleet, signer


async def pictures_of(fleet: Fleet, completion: Completion) -> list[bytes]:
    """Everything that lies beside the outcome."""
    folder = f"{fleet.settings.s3.prefix}{completion.tenant}/{completion.request_id}/"
    async with MinioObjects(fleet.settings.s3) as objects:
        keys = [key async for key in objects.list_keys(folder) if not key.endswith(".json")]
        return [await objects.get(key, bytes_max=1 << 24) or b"" for key in keys]


async def test_every_format_is_signed_and_stays_so_in_the_store_and_through_the_gateway(
    stack: Stack, tmp_path: Path
) -> None:
    with silent_server() as hanging:
        fleet, signer = signing_fleet(stack, tmp_path, DARKROOM_PROVENANCE__TIMESTAMP_URL=hanging)
        await fleet.make_topics()
        formats = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
        requests = [
            fleet.requests(1, request_id=f"{fleet.serial}-{name}", output={"format": name})[0] for name in formats
        ]
        fleet.start("--simulated-device", "0")
        gateway = GatewayProcess(fleet.environment, tmp_path, "gateway")
        try:
            async with Client(fleet.settings) as client:
                outcomes = await client.wait(await client.send(requests), timeout_s=120)
            await asyncio.to_thread(gateway.wait_ready)
            for request, content_type in zip(requests, formats.values(), strict=True):
                completion = outcomes[request.request_id]
                assert completion.status.value == "succeeded", completion.error
                assert completion.provenance is not None
                assert (completion.provenance.signer, completion.provenance.timestamped) == ("Studio North", False)
                assert hanging in completion.warnings[0], "the authority that hangs costs the date, and no picture"
                (stored,) = await pictures_of(fleet, completion)
                address = f"{gateway.url}/v1/generations/{request.request_id}/images/0"
                async with httpx.AsyncClient(trust_env=False) as http:
                    served = await http.get(address)
                assert served.headers["content-type"] == content_type
                for content in (stored, served.content):
                    read = json.loads(c2pa.Reader(content_type, io.BytesIO(content)).json())
                    assert read["validation_state"] == "Valid"
                    found = credentials_of(content, anchors_pem=signer.authority.read_text())
                    assert (found.worth, found.model, found.source_type) == (
                        Worth.TRUSTED,
                        "simulated",
                        DIGITAL_SOURCE_TYPE,
                    )
                    line = infotext.line_in(content)
                    assert line is not None
                    assert infotext.read(line)["Seed"] == str(completion.images[0].seed)
        finally:
            gateway.kill()
            fleet.stop()


class HoldingProxy(Proxy):
    """A proxy before the store that lets no picture through."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.held = asyncio.Event()

    @override
    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, frames: bool) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if chunk.startswith(b"PUT ") and b"/0-" in chunk.partition(b"\r\n")[0]:
                self.held.set()
                await asyncio.Event().wait()
            writer.write(chunk)
            await writer.drain()


async def test_a_kill_between_signing_and_storing_leaves_one_signature_and_a_clean_audit(
    stack: Stack, tmp_path: Path
) -> None:
    fleet, signer = signing_fleet(stack, tmp_path)
    await fleet.make_topics()
    endpoint = fleet.environment["DARKROOM_S3__ENDPOINT"]
    proxy = HoldingProxy(int(endpoint.rpartition(":")[2]))
    await proxy.start()
    (request,) = fleet.requests(1)
    try:
        fleet.environment["DARKROOM_S3__ENDPOINT"] = f"http://127.0.0.1:{proxy.port}"
        first = fleet.start("--simulated-device", "0")
        fleet.environment["DARKROOM_S3__ENDPOINT"] = endpoint
        async with Client(fleet.settings) as client:
            await client.send(request)
            async with asyncio.timeout(120):
                await proxy.held.wait()
            assert len(first.events("signed")) == 1
            first.kill()
            second = fleet.start("--simulated-device", "0")
            completion = (await client.wait([request.request_id], timeout_s=120))[request.request_id]
            replay = GenerationRequest.model_validate(request.model_dump())
            await client.send(replay)
            await until(lambda: len(second.events("published")) == 2, 60, "the replay")
        assert len(second.events("signed")) == 1, "the replay is answered with what stands"
        (content,) = await pictures_of(fleet, completion)
        assert credentials_of(content, anchors_pem=signer.authority.read_text()).worth is Worth.TRUSTED
        async with MinioObjects(fleet.settings.s3) as objects:
            report = await audit(fleet.settings, objects, are_signed=are_whole)
        assert report.is_clean
        assert (report.records, report.succeeded, report.replayed, report.credentials_broken) == (2, 2, 1, [])
    finally:
        fleet.stop()
        await proxy.close()


async def test_a_marked_and_signed_picture_of_the_tiny_model_has_both_in_the_store(
    stack: Stack, tmp_path: Path
) -> None:
    fleet, signer = signing_fleet(stack, tmp_path, DARKROOM_PROVENANCE__WATERMARK="true")
    await fleet.make_topics()
    size = {"width": 256, "height": 256, "steps": 4}
    output = {"format": "jpeg", "quality": 80}
    [request] = fleet.requests(1, request_id=f"{fleet.serial}-marked", output=output, **size)
    [small] = fleet.requests(1, request_id=f"{fleet.serial}-small", steps=2)
    fleet.start()
    try:
        async with Client(fleet.settings) as client:
            outcomes = await client.wait(await client.send([request, small]), timeout_s=150)
        [content] = await pictures_of(fleet, outcomes[request.request_id])
        assert look_for_mark(content).is_marked
        assert credentials_of(content, anchors_pem=signer.authority.read_text()).worth is Worth.TRUSTED
        assert not any("watermark" in one for one in outcomes[request.request_id].warnings)
        assert any("no watermark" in one for one in outcomes[small.request_id].warnings), "64 x 64"
    finally:
        fleet.stop()
