"""Proves that a worker whose model, ControlNet and adapters lie in the object store paints as from its own disk.

The tiny model is uploaded to the embedded store; every wrong way in which it may lie there is one sentence.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from PIL import Image
from structlog.testing import capture_logs

from darkroom.consumer.doctor.doctor import examine
from darkroom.consumer.doctor.finding import Finding
from darkroom.consumer.weights import ModelStore
from darkroom.consumer.weights.adapters import StoreAdapters
from darkroom.consumer.worker.engines import make_engine
from darkroom.inference.resolve import resolve
from darkroom.inference.tiny import TinyModel, ensure_tiny_model
from darkroom.inference.types import ModelError
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.identities import identity_of
from darkroom.producer.store.s3_client import connect
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.settings import ModelSettings, Settings, load_settings
from darkroom.schemas.settings.model_source import StorePrefix
from tests.integration.fleet import Fleet, until
from tests.integration.in_process import running_worker

if TYPE_CHECKING:
    from minio import Minio

    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


class Shelf:
    """A bucket of models of one test, and the folder that they are fetched to."""

    def __init__(self, client: Minio, settings: Settings, folder: Path) -> None:
        self.client = client
        self.bucket = f"models-{uuid4().hex[:10]}"
        self.folder = folder
        self._settings = settings
        client.make_bucket(self.bucket)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(self.bucket, key, io.BytesIO(content), len(content))

    def put_folder(self, prefix: str, folder: Path) -> None:
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{prefix}/{file.relative_to(folder)}", file.read_bytes())

    def fetch(self, prefix: str, bucket: str | None = None) -> Path:
        store = ModelStore(self._settings.s3, ModelSettings(cache_path=self.folder))
        return store.fetch(StorePrefix(bucket or self.bucket, prefix))

    def adapters(self, prefix: str, bucket: str | None = None) -> StoreAdapters:
        store = ModelStore(self._settings.s3, ModelSettings(cache_path=self.folder))
        return StoreAdapters(store, StorePrefix(bucket or self.bucket, prefix))

    def refused(self, prefix: str, bucket: str | None = None) -> str:
        with pytest.raises(ModelError) as caught:
            self.fetch(prefix, bucket)
        message = str(caught.value)
        assert "\n" not in message
        assert message.endswith(".")
        return message


@pytest.fixture
def shelf(stack: Stack, tmp_path: Path) -> Iterator[Shelf]:
    settings = load_settings(environ=stack.environment)
    client, http = connect(settings.s3, identity_of(settings.s3))
    yield Shelf(client, settings, tmp_path / "cache")
    http.clear()


def sums(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in files.items()).encode()


def test_what_is_fetched_is_what_lies_there(shelf: Shelf) -> None:
    files = {"unet/config.json": b"{}", "unet/model.safetensors": os.urandom(70_000), "tokenizer/merges.txt": b"a b"}
    others = {"README.md": b"about it", "unet/model.bin": b"a pickle", "unet/": b""}
    for path, content in (files | others).items():
        shelf.put(f"a/model/{path}", content)
    shelf.put("a/model-of-another-name/config.json", b"{}")
    folder = shelf.fetch("a/model")
    fetched = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert fetched == files
    written = (folder / "unet" / "config.json").stat().st_mtime_ns
    assert shelf.fetch("a/model") == folder, "unchanged"
    assert (folder / "unet" / "config.json").stat().st_mtime_ns == written
    shelf.put("a/model/unet/config.json", b"[]")
    changed = shelf.fetch("a/model")
    assert changed != folder
    assert (changed / "unet" / "config.json").read_bytes() == b"[]"
    assert folder.is_dir(), "who loaded the one before still has it"


def test_a_single_file_comes_with_its_configuration(shelf: Shelf) -> None:
    shelf.put("nets/openpose.safetensors", b"weights")
    shelf.put("nets/config.json", b"{}")
    shelf.put("nets/other.safetensors", b"other weights")
    file = shelf.fetch("nets/openpose.safetensors")
    assert file.read_bytes() == b"weights"
    assert sorted(one.name for one in file.parent.iterdir()) == ["config.json", "openpose.safetensors"]
    shelf.put("nets/SHA256SUMS", sums({"openpose.safetensors": b"other bytes"}))
    assert "SHA-256" in shelf.refused("nets/openpose.safetensors")


def test_the_pose_detector_is_fetched_as_it_is_published(shelf: Shelf) -> None:
    shelf.put("annotators/body_pose_model.pth", b"weights")
    shelf.put("annotators/hand_pose_model.pth", b"other weights")
    assert shelf.fetch("annotators/body_pose_model.pth").read_bytes() == b"weights"
    assert [one.name for one in shelf.fetch("annotators").iterdir()] == ["body_pose_model.pth"]


def test_a_manifest_is_held_to(shelf: Shelf) -> None:
    files = {"a.safetensors": b"one", "sub/b.safetensors": b"two"}
    for path, content in files.items():
        shelf.put(f"m/{path}", content)
    shelf.put("m/SHA256SUMS", sums(files))
    assert (shelf.fetch("m") / "sub" / "b.safetensors").read_bytes() == b"two"
    shelf.put("m/SHA256SUMS", sums(files | {"sub/b.safetensors": b"three"}))
    assert "m/sub/b.safetensors" in shelf.refused("m")
    shelf.put("m/SHA256SUMS", sums(files | {"c.safetensors": b"three"}))
    assert "names c.safetensors, which is not there" in shelf.refused("m")
    shelf.put("m/SHA256SUMS", b"md5 or so\n")
    assert "a line that sha256sum does not write" in shelf.refused("m")


def test_what_is_not_there_is_one_sentence(shelf: Shelf) -> None:
    shelf.put("pictures/a.png", b"no model")
    assert "There is no model at" in shelf.refused("nowhere")
    assert "There is no model at" in shelf.refused("pictures")
    assert "There is no model at" in shelf.refused("nowhere/xl.safetensors")
    assert "There is no bucket" in shelf.refused("model", f"not-{shelf.bucket}")
    assert "There is no bucket" in shelf.refused("xl.safetensors", f"not-{shelf.bucket}")


@pytest.mark.render
async def test_a_worker_paints_with_a_model_and_adapters_from_the_store(
    stack: Stack, shelf: Shelf, tmp_path: Path
) -> None:
    import torch

    from darkroom.inference.sdxl import SdxlDevice
    from tests.inference import loras
    from tests.inference.painting import TOLERANCE, WAVING, Oracle, distance, pixels

    torch.set_num_threads(1)
    tiny = ensure_tiny_model()
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    _write_adapters(adapters, tiny, loras, SdxlDevice)
    shelf.put_folder("sdxl/tiny", tiny.path)
    shelf.put_folder("openpose", tiny.controlnet_path)
    (adapters / "ink.safetensors").rename(adapters / "ink drawing (v2).safetensors")
    (adapters / "torn.safetensors").write_bytes((adapters / "oil.safetensors").read_bytes()[:5000])
    shelf.put_folder("adapters", adapters)
    fleet = Fleet(
        stack.environment,
        tmp_path,
        DARKROOM_TOPICS__REQUESTS_PARTITIONS="3",
        DARKROOM_DEVICE="cpu",
        DARKROOM_MODEL__PATH=f"s3://{shelf.bucket}/sdxl/tiny",
        DARKROOM_MODEL__CONTROLNET_PATH=f"s3://{shelf.bucket}/openpose/",
        DARKROOM_MODEL__ADAPTERS_PATH=f"s3://{shelf.bucket}/adapters",
        DARKROOM_MODEL__CACHE_PATH=str(shelf.folder),
    )
    settings = fleet.settings
    await ensure_topics(settings)
    pose = {"people": [list(WAVING.people[0])]}
    asked: list[dict[str, Any]] = [
        {"adapter": {"name": "ink drawing (v2)"}, "steps": 5},
        {"adapter": {"name": "ink drawing (v2)", "weight": 0.5}, "steps": 7, "pose": pose},
        {"adapter": {"name": "oil", "weight": -0.8}, "steps": 6},
        {"steps": 6},
        {"adapter": {"name": "tar"}, "steps": 6},
        {"adapter": {"name": "torn"}, "steps": 6},
    ]
    requests = [
        fleet.requests(1, **{"prompt": f"picture {number}", "request_id": f"{fleet.serial}-{number}", **fields})[0]
        for number, fields in enumerate(asked)
    ]
    engine = make_engine(settings)
    async with running_worker(settings, engine), Client(settings) as client:
        info = engine.info
        outcomes = await client.wait(await client.send(requests), timeout_s=120)
    assert info.name == "tiny"
    assert info.adapters == {
        name: f"sha256:{hashlib.sha256((adapters / f'{name}.safetensors').read_bytes()).hexdigest()}"
        for name in ("ink drawing (v2)", "oil")
    }
    for reason in ("torn.safetensors is torn", "'tar' is not known"):
        refused = outcomes[requests.pop().request_id]
        assert refused.error is not None
        assert refused.error.code == "unknown_adapter"
        assert not refused.error.retryable
        assert reason in refused.error.message
    oracle = Oracle(tiny.path, tiny.controlnet_path, adapters_path=adapters)
    objects = MinioObjects(settings.s3)
    for request in requests:
        completion = outcomes[request.request_id]
        assert completion.status.value == "succeeded", completion.error
        content = await objects.get(completion.images[0].key, bytes_max=1 << 24)
        assert content is not None
        rendered = pixels(_Stored(content))  # type: ignore[arg-type]
        expected = oracle.paint(resolve(request, info, settings.limits))
        assert distance(rendered, expected) <= TOLERANCE, request.adapters
    objects.close()
    painted = [outcome.render_digest for outcome in outcomes.values() if outcome.render_digest is not None]
    assert len(set(painted)) == len(requests)


class _Stored:
    def __init__(self, content: bytes) -> None:
        self.content = content


def _write_adapters(folder: Path, tiny: TinyModel, loras: Any, device_type: Any) -> None:
    device = device_type(tiny.path, device="cpu", cpu_threads=1)
    device.load()
    networks = {"unet": device._loaded().components.unet}
    names = loras.transformer_layers(networks["unet"], loras.ATTENTION)
    for seed, name in enumerate(("ink", "oil")):
        loras.peft_file(folder / f"{name}.safetensors", loras.Layers(networks, seed), {"unet": names})
    device.close()


def test_of_adapters_each_is_fetched_alone(shelf: Shelf) -> None:
    """One that was torn on its way into the store, or that is named and gone, keeps nobody from the others."""
    good, torn = b"g" * 1000, b"t" * 1000
    for name, content in (("good.safetensors", good), ("torn.safetensors", torn[:500])):
        shelf.put(f"loras/{name}", content)
    named = {"good.safetensors": good, "torn.safetensors": torn, "gone.safetensors": b""}
    shelf.put("loras/SHA256SUMS", sums(named))
    shelf.put(f"loras/{'n' * 240}.safetensors", good)
    assert "which is not there" in shelf.refused("loras") or "no file's path" in shelf.refused("loras")
    listing = shelf.adapters("loras")
    with capture_logs() as logged:
        good_one, torn_one = listing()
    assert (good_one.path.name, good_one.path.read_bytes(), good_one.trouble) == ("good.safetensors", good, None)
    assert (torn_one.path.name, torn_one.trouble is not None) == ("torn.safetensors", True)
    assert shelf.bucket not in (torn_one.trouble or ""), "requesters read it"
    told = [line["why"] for line in logged if line["event"] == "object_passed_over"]
    assert [("SHA-256" in why, "no file's path" in why) for why in told] == [(True, False), (False, True)]
    with capture_logs() as logged:
        assert listing() == [good_one, torn_one]
    assert logged == [], "what stands is told once, and a torn object is not fetched at each look"


def test_adapters_under_a_prefix_come_change_and_go_alone(shelf: Shelf) -> None:
    listing = shelf.adapters("loras")
    assert listing() == [], "nothing is there yet"
    for key in ("a.safetensors", "old.pt", "notes.txt", ".b.safetensors", "peft/adapter_model.safetensors"):
        shelf.put(f"loras/{key}", key.encode())
    shelf.put("loras/peft/adapter_config.json", b"{}")
    shelf.put("loras/peft/README.md", b"not fetched")
    shelf.put("loras/deep/c.safetensors", b"c")
    with capture_logs() as logged:
        first = {entry.path.name: entry for entry in listing()}
    assert set(first) == {"a.safetensors", "old.pt", "peft"}
    assert first["a.safetensors"].path.read_bytes() == b"a.safetensors"
    assert {file.name for file in first["peft"].path.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    assert [line["why"] for line in logged if line["event"] == "object_passed_over"] == [
        "The adapters below loras/deep are not read: move them up."
    ]
    shelf.put("loras/a.safetensors", b"another")
    shelf.client.remove_object(shelf.bucket, "loras/peft/adapter_model.safetensors")
    second = {entry.path.name: entry for entry in listing()}
    assert set(second) == {"a.safetensors", "old.pt"}
    assert second["a.safetensors"].version != first["a.safetensors"].version
    assert second["a.safetensors"].path.read_bytes() == b"another"
    assert first["a.safetensors"].path.read_bytes() == b"a.safetensors", "somebody may read it still"
    assert second["old.pt"] == first["old.pt"]
    with pytest.raises(ModelError, match="name the prefix above it"):
        shelf.adapters("loras/a.safetensors")()
    with pytest.raises(ModelError, match="There is no bucket"):
        shelf.adapters("loras", f"not-{shelf.bucket}")()


@pytest.mark.render
@pytest.mark.parametrize("where", ["a folder", "a prefix"])
async def test_adapters_come_change_and_go_while_a_worker_runs(
    stack: Stack, shelf: Shelf, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is usable without a restart, under its own digest, and does not hold up a request without one."""
    from darkroom.inference.sdxl import SdxlDevice
    from tests.inference import loras

    monkeypatch.setattr("darkroom.consumer.worker.adapter_watch.FOLDER_S", 0.5)
    monkeypatch.setattr("darkroom.consumer.worker.adapter_watch.PREFIX_S", 0.5)
    tiny = ensure_tiny_model()
    made, folder = tmp_path / "made", tmp_path / "adapters"
    made.mkdir()
    folder.mkdir()
    _write_adapters(made, tiny, loras, SdxlDevice)
    contents = {name: (made / f"{name}.safetensors").read_bytes() for name in ("ink", "oil")}
    digests = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in contents.items()}

    def put(name: str, content: bytes | None) -> None:
        file = f"{name}.safetensors"
        if where == "a prefix" and content is None:
            shelf.client.remove_object(shelf.bucket, f"adapters/{file}")
        elif where == "a prefix":
            shelf.put(f"adapters/{file}", content or b"")
        elif content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)

    fleet = Fleet(
        stack.environment,
        tmp_path,
        DARKROOM_DEVICE="cpu",
        DARKROOM_MODEL__PATH=str(tiny.path),
        DARKROOM_MODEL__ADAPTERS_PATH=str(folder) if where == "a folder" else f"s3://{shelf.bucket}/adapters",
        DARKROOM_MODEL__CACHE_PATH=str(shelf.folder),
    )
    settings = fleet.settings
    await ensure_topics(settings)
    engine = make_engine(settings)
    async with running_worker(settings, engine) as worker, Client(settings) as client:

        def shown(metric: str) -> float | None:
            return worker.metrics.registry.get_sample_value(f"darkroom_{metric}")

        async def becomes(adapters: dict[str, str], refused: set[str]) -> None:
            def is_so() -> bool:
                return dict(engine.info.adapters) == adapters and set(engine.info.adapters_refused) == refused

            await until(is_so, 60, f"the adapters to be {set(adapters)}, refused {refused}")
            assert (shown("adapters"), shown("adapters_refused")) == (len(adapters), len(refused))

        async def outcome(**fields: Any) -> Completion:
            serial = uuid4().hex[:8]
            (request,) = fleet.requests(
                1, **{"prompt": "a lake", "seed": 7, "steps": 4, "request_id": serial, **fields}
            )
            return (await client.wait(await client.send([request]), timeout_s=60))[serial]

        ink = {"adapter": {"name": "ink"}}
        plain = await outcome()
        assert (await outcome(**ink)).error.code == "unknown_adapter"  # type: ignore[union-attr]
        put("ink", contents["ink"])
        await becomes({"ink": digests["ink"]}, set())
        first = await outcome(**ink)
        put("ink", contents["oil"])
        put("bad", contents["oil"][:5000])
        await becomes({"ink": digests["oil"]}, {"bad"})
        second = await outcome(**ink)
        refused = await outcome(adapter={"name": "bad"})
        assert refused.error is not None
        assert (refused.error.code, "is torn" in refused.error.message) == ("unknown_adapter", True)
        put("ink", None)
        put("bad", None)
        await becomes({}, set())
        gone = await outcome(**ink)
        assert gone.error is not None
        assert (gone.error.code, "has no adapters" in gone.error.message) == ("unknown_adapter", True)
        assert (await outcome()).render_digest == plain.render_digest
    assert [first.status.value, second.status.value] == ["succeeded", "succeeded"]
    assert len({plain.render_digest, first.render_digest, second.render_digest}) == 3
    objects = MinioObjects(settings.s3)
    for completion, digest in ((first, digests["ink"]), (second, digests["oil"])):
        content = await objects.get(completion.images[0].key, bytes_max=1 << 24)
        with Image.open(io.BytesIO(content or b"")) as picture:
            assert json.loads(picture.text["darkroom:request"])["adapter"]["digest"] == digest  # type: ignore[attr-defined]
    objects.close()


@pytest.mark.render
async def test_the_doctor_loads_from_the_store(stack: Stack, shelf: Shelf) -> None:
    tiny = ensure_tiny_model()
    shelf.put_folder("tiny", tiny.path)

    async def examined(path: str) -> Finding:
        own = {"DARKROOM_MODEL__PATH": path, "DARKROOM_MODEL__CACHE_PATH": str(shelf.folder), "DARKROOM_DEVICE": "cpu"}
        findings = [one async for one in examine(load_settings(environ=stack.environment | own))]
        return next(one for one in findings if one.check == "model")

    good = await examined(f"s3://{shelf.bucket}/tiny")
    assert good.passed, good
    assert Path(good.details["path"]).parent == shelf.folder
    bad = await examined(f"s3://{shelf.bucket}/tinny")
    assert (bad.passed, "There is no model at" in bad.says) == (False, True)
