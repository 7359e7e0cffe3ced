"""Proves what `darkroom doctor` says of the certificate, and that an audit finds broken credentials."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from darkroom.consumer.audit.pictures import ObjectChecks
from darkroom.consumer.doctor.doctor import provenance
from darkroom.consumer.provenance.signing import Signing
from darkroom.consumer.provenance.verifying import are_whole
from darkroom.producer.outcomes.completions import succeeded
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.schemas.events.completion import ImageRef
from darkroom.schemas.settings import ProvenanceSettings, Settings
from tests.consumer.credentials import DAY, Signer, timestamp_authority
from tests.consumer.test_signing import SAID, picture
from tests.producer.examples import NOON, answered, work


async def found(given: ProvenanceSettings) -> Any:
    return await provenance(Settings(provenance=given))


async def test_without_a_certificate_doctor_says_what_that_means() -> None:
    finding = await found(ProvenanceSettings())
    assert finding.passed
    assert "nobody signs" in finding.says
    assert "DARKROOM_PROVENANCE__CERT_FILE" in finding.remedy
    assert "not how it was made" in (await found(ProvenanceSettings(parameters=False))).says


@pytest.mark.parametrize(("days", "is_soon"), [(300, False), (20, True)])
async def test_doctor_names_the_signer_and_tells_of_the_certificates_end(
    tmp_path: Path, days: int, is_soon: bool
) -> None:
    finding = await found(Signer(tmp_path, until=days * DAY).settings())
    assert (finding.passed, finding.remedy is not None) == (True, is_soon)
    assert f"signed by Studio North with es256, for {days - 1} days more" in finding.says


async def test_doctor_tries_the_timestamp_authority(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    with timestamp_authority(tmp_path) as (url, _):
        assert "dated by the timestamp authority" in (await found(signer.settings(timestamp_url=url))).says
    finding = await found(signer.settings(timestamp_url=url))
    assert (finding.passed, "did not answer" in finding.remedy) == (True, True)


@pytest.mark.parametrize(("mode", "outcome"), [("required", "does not start"), ("best_effort", "stored unsigned")])
async def test_a_certificate_that_is_no_good_fails_the_check(tmp_path: Path, mode: str, outcome: str) -> None:
    finding = await found(Signer(tmp_path, since=-3 * DAY, until=-DAY).settings(mode=mode))
    assert (finding.passed, "expired" in finding.says, outcome in finding.remedy) == (False, True, True)


async def test_an_audit_finds_credentials_that_do_not_hold_and_asks_no_unsigned_picture_for_any(tmp_path: Path) -> None:
    objects = MemoryObjects("darkroom", allowed_buckets=["darkroom"])
    signed = (await Signing(Signer(tmp_path).settings()).signed((picture(),), SAID)).images[0].content
    broken = bytearray(signed)
    broken[-20] ^= 1
    checks = ObjectChecks(objects, retention=timedelta(days=1), now=lambda: NOON, are_signed=are_whole)
    refs: list[ImageRef] = []
    for name, content, is_signed in (
        ("whole", signed, True),
        ("broken", bytes(broken), True),
        ("stripped", picture().content, True),
        ("unsigned", picture().content, False),
    ):
        objects.place("darkroom", name, content)
        refs.append(
            ImageRef(
                bucket="darkroom",
                key=name,
                width=64,
                height=64,
                seed=1,
                content_type="image/png",
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                unsigned_sha256="0" * 64 if is_signed else None,
            )
        )
    await checks.submit(succeeded(answered(), tuple(refs), work(), completed_at=NOON))
    await checks.finish()
    assert sorted(checks.unsigned.entries()) == ["darkroom/broken", "darkroom/stripped"]
    assert (checks.corrupt.entries(), checks.missing.entries()) == ([], [])
