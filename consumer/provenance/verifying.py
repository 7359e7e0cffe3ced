"""Reads a picture's content credentials by C2PA's own library, and says what they are worth."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import c2pa

from darkroom.consumer.provenance.manifest import GENERATION_LABEL, content_type_of

_UNTRUSTED: Final = "signingCredential.untrusted"
"""c2pa-rs 0.91 lists it among failures of a picture that it calls Valid, as long as no anchors are given."""
FAILURES_MAX: Final = 16
"""Failures that are told: one changed byte makes one or two."""


class Worth(StrEnum):
    """The worth of a picture's credentials."""

    TRUSTED = "trusted"
    """Whole, and signed by whom one of the given anchors vouches for."""
    VALID = "valid"
    """Whole. Who signed is known by name alone."""
    INVALID = "invalid"
    """The picture or the credentials were changed, or the signature is no good."""
    NONE = "none"
    """The picture has none."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of one picture."""

    worth: Worth
    signer: str | None = None
    algorithm: str | None = None
    signed_at: str | None = None
    """The timestamp authority's word; None where there is none."""
    generator: str | None = None
    model: str | None = None
    revision: str | None = None
    request: str | None = None
    source_type: str | None = None
    ingredients: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    """C2PA's codes of what is wrong."""


def credentials_of(content: bytes, *, anchors_pem: str | None = None) -> Credentials:
    """Return the credentials of a PNG, JPEG or WebP.

    `anchors_pem`: certificates of the authorities that are trusted. Raises `ValueError` for any other file, and for
    anchors that c2pa cannot read.
    """
    content_type = content_type_of(content)
    if content_type is None:
        raise ValueError("it is no PNG, JPEG or WebP")
    given: dict[str, Any] = {} if anchors_pem is None else {"trust": {"trust_anchors": anchors_pem}}
    try:
        context = c2pa.Context.from_dict(given)
    except c2pa.C2paError as error:
        raise ValueError(f"the trust anchors cannot be used: {error}") from error
    try:
        with c2pa.Reader(content_type, io.BytesIO(content), context=context) as reader:
            read: Mapping[str, Any] = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return Credentials(Worth.NONE)
    except c2pa.C2paError as error:
        return Credentials(Worth.INVALID, failures=(str(error),))
    return _credentials(read)


def are_whole(content: bytes) -> bool:
    """Return True if a picture has credentials and neither they nor the picture were changed."""
    try:
        return credentials_of(content).worth in (Worth.VALID, Worth.TRUSTED)
    except ValueError:
        return False


def _credentials(read: Mapping[str, Any]) -> Credentials:
    manifest = read["manifests"][read["active_manifest"]]
    signature = manifest.get("signature_info") or {}
    created, generation = _created(manifest), _assertion(manifest, GENERATION_LABEL)
    generators = manifest.get("claim_generator_info") or [{}]
    worth = Worth(str(read["validation_state"]).lower())
    failures = dict.fromkeys(one["code"] for one in read.get("validation_status", ()) if one["code"] != _UNTRUSTED)
    return Credentials(
        worth,
        signer=signature.get("common_name"),
        algorithm=signature.get("alg"),
        signed_at=signature.get("time"),
        generator=" ".join(generators[0][part] for part in ("name", "version") if part in generators[0]) or None,
        model=generation.get("model"),
        revision=generation.get("revision"),
        request=generation.get("request"),
        source_type=created.get("digitalSourceType"),
        ingredients=tuple(str(one.get("title")) for one in manifest.get("ingredients", ())),
        failures=tuple(failures)[:FAILURES_MAX],
    )


def _assertion(manifest: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    found = (one["data"] for one in manifest.get("assertions", ()) if one["label"].startswith(label))
    return next((one for one in found if isinstance(one, dict)), {})


def _created(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    actions = _assertion(manifest, "c2pa.actions").get("actions", ())
    return next((one for one in actions if one.get("action") == "c2pa.created"), {})
