"""Proves that only the pictures that a completion names are saved, whole, and never outside of the folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from darkroom.producer.client.saving import PictureUnusable, fetch, save_images
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.schemas.events.completion import Completion
from tests.producer.examples import Picture, success


async def stored(completion: Completion, *contents: bytes) -> MemoryObjects:
    objects = MemoryObjects()
    for ref, content in zip(completion.images, contents, strict=True):
        await objects.put(ref.key, content, ref.content_type)
    return objects


async def test_pictures_are_saved_under_tenant_and_request(tmp_path: Path) -> None:
    completion = success(Picture(b"one"), Picture(b"two", content_type="image/jpeg", extension="jpg"))
    paths = await save_images(await stored(completion, b"one", b"two"), completion, tmp_path)
    digests = [hashlib.sha256(content).hexdigest()[:16] for content in (b"one", b"two")]
    assert paths == [
        tmp_path / "studio" / "hello-1" / f"0-{digests[0]}.png",
        tmp_path / "studio" / "hello-1" / f"1-{digests[1]}.jpg",
    ]
    assert [path.read_bytes() for path in paths] == [b"one", b"two"]
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)


async def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    completion = success()
    await save_images(await stored(completion, b"picture"), completion, tmp_path)
    assert await save_images(MemoryObjects(), completion, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"another", "is not the one"), (b"a larger picture", "is larger"), (None, "is not in the store")],
)
async def test_what_is_not_the_picture_is_not_saved(tmp_path: Path, content: bytes | None, said: str) -> None:
    completion = success()
    objects = MemoryObjects() if content is None else await stored(completion, content)
    with pytest.raises(PictureUnusable, match=rf"darkroom/studio/hello-1/0-\w+\.png {said}"):
        await save_images(objects, completion, tmp_path)
    assert not (tmp_path / "studio").exists()


async def test_a_bucket_that_may_not_be_read_is_said() -> None:
    (image,) = success(bucket="another-bucket").images
    with pytest.raises(PictureUnusable, match="another-bucket"):
        await fetch(MemoryObjects(), image)


async def test_a_key_from_the_topic_chooses_no_path(tmp_path: Path) -> None:
    completion = success()
    image = completion.images[0].model_copy(update={"key": "../../../etc/passwd", "content_type": "text/x-odd/../.."})
    objects = MemoryObjects()
    await objects.put(image.key, b"picture", "image/png")
    (path,) = await save_images(objects, completion.model_copy(update={"images": (image,)}), tmp_path)
    assert path == tmp_path / "studio" / "hello-1" / f"0-{image.sha256[:16]}.bin"
