"""Writes content credentials into pictures: what they say, and c2pa's calls. No settings, no network of its own."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import c2pa
from PIL.PngImagePlugin import PngInfo

from darkroom.consumer.provenance.certificate import Identity
from darkroom.inference.marks import DIGITAL_SOURCE_TYPE
from darkroom.inference.png import png_file
from darkroom.schemas.events.pose import InlinePicture, PhotoPose
from darkroom.schemas.events.request import GenerationRequest, pictures_of

GENERATOR: Final = "Darkroom"
GENERATION_LABEL: Final = "darkroom.generation"
"""The assertion that names the model, beside C2PA's own."""
_MAGIC: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
_NO_THUMBNAIL: Final = {"builder": {"thumbnail": {"enabled": False}}}
"""A thumbnail would add 147 KB to a PNG and 1.4 MB to a WebP of a megapixel (c2pa-rs 0.91)."""
_UNCHECKED: Final = {**_NO_THUMBNAIL, "verify": {"verify_after_sign": False}}
"""c2pa reads what it has signed once more, which takes a third of the time; the probe has shown what that would."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A picture that went into another one."""

    title: str
    """`pose` or another field of a request."""
    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Said:
    """The words of the credentials, besides how the picture came to be."""

    model: str
    revision: str
    request: str | None = None
    """The digest of the request's identity, where the operator wants it named."""
    ingredients: tuple[Ingredient, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture with its credentials."""

    content: bytes
    left_out: tuple[str, ...]
    """Titles of ingredients that c2pa cannot read."""


class Writer:
    """Signs pictures as one identity. Threads may share it."""

    def __init__(self, identity: Identity, timestamp_url: str | None = None) -> None:
        """Make a writer. Raises `c2pa.C2paError` for an identity that c2pa does not take.

        `timestamp_url`: the authority that dates each signature, asked whenever something is signed.
        """
        if identity.signer is None:
            info = c2pa.C2paSignerInfo(identity.algorithm, identity.chain_pem, identity.key_pem, timestamp_url)
            self._signer = c2pa.Signer.from_info(info)
        else:
            algorithm = c2pa.C2paSigningAlg[identity.algorithm.upper()]
            self._signer = c2pa.Signer.from_callback(
                identity.signer, algorithm, identity.chain_pem.decode(), timestamp_url
            )
        self._context = c2pa.Context.from_dict(_UNCHECKED)

    def probe(self) -> None:
        """Sign a small picture and check it. Raises `c2pa.C2paError`: the identity is then at fault, and no picture."""
        self._embed(PROBE, "image/png", Said("probe", "probe"), c2pa.Context.from_dict(_NO_THUMBNAIL))

    def embed(self, content: bytes, content_type: str, said: Said) -> Embedded:
        """Return the picture with its credentials. Raises `c2pa.C2paError`."""
        return self._embed(content, content_type, said, self._context)

    def _embed(self, content: bytes, content_type: str, said: Said, context: c2pa.Context) -> Embedded:
        with c2pa.Builder.from_json(json.dumps(_manifest(said)), context) as builder:
            left_out = []
            for one in said.ingredients:
                try:
                    # Used by the model as input, which is what `inputTo` means (C2PA 2.2, 10.3.2).
                    about = {"title": one.title, "relationship": "inputTo"}
                    builder.add_ingredient(about, one.content_type, io.BytesIO(one.content))
                except c2pa.C2paError:
                    left_out.append(one.title)
            signed = io.BytesIO()
            builder.sign(self._signer, content_type, io.BytesIO(content), signed)
        return Embedded(signed.getvalue(), tuple(left_out))


def ingredients_of(request: GenerationRequest | None, stored: Mapping[str, bytes]) -> tuple[Ingredient, ...]:
    """Return the pictures that a request brought. `stored`: the bytes of those that it names by key, by field."""
    if request is None:
        return ()
    titles = {"pose": "photo" if isinstance(request.pose, PhotoPose) else "pose"}
    titles |= {f"controls.{number}": control.kind for number, control in enumerate(request.controls)}
    ingredients = []
    for field, picture in pictures_of(request).items():
        content = picture.content if isinstance(picture, InlinePicture) else stored.get(field)
        if content is not None:
            ingredients.append(Ingredient(titles.get(field, field), content, content_type_of(content) or "unknown"))
    return tuple(ingredients)


def content_type_of(content: bytes) -> str | None:
    """Return the content type of a PNG, JPEG or WebP; None for any other file."""
    return next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), None)


def _manifest(said: Said) -> dict[str, Any]:
    agent = {"name": GENERATOR, "version": version("darkroom")}
    generation = {"model": said.model, "revision": said.revision}
    if said.request is not None:
        generation["request"] = said.request
    created = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE, "softwareAgent": agent}
    assertions: Sequence[dict[str, Any]] = (
        {"label": "c2pa.actions", "data": {"actions": [created]}},
        {"label": GENERATION_LABEL, "data": generation},
    )
    return {"claim_generator_info": [agent], "assertions": list(assertions)}


PROBE: Final = png_file(1, 1, (8, 0), zlib.compress(b"\0\0"), text=PngInfo())
"""A black PNG of one pixel."""
