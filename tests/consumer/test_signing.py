"""Proves content credentials: C2PA's own reader accepts what was signed, and what cannot be signed is never lost."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import c2pa
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from darkroom.command_line import main
from darkroom.consumer.provenance import remote_signer
from darkroom.consumer.provenance.manifest import Ingredient, Said, ingredients_of
from darkroom.consumer.provenance.signing import CannotSign, PictureNotSigned, Signed, Signing, signing_of
from darkroom.consumer.provenance.trial_chain import ORGANIZATION
from darkroom.consumer.provenance.verifying import Credentials, Worth, credentials_of
from darkroom.inference.marks import DIGITAL_SOURCE_TYPE
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import RenderedImage, RenderJob, RenderRequest
from darkroom.schemas.errors import SettingsError
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import ProvenanceSettings
from tests.consumer.credentials import CURVES, DAY, Signer, silent_server, timestamp_authority
from tests.inference import infotext

SAID = Said("tiny", "sha256:0123")


def picture(image_format: str = "png", **fields: Any) -> RenderedImage:
    request = RenderRequest(
        **{"prompt": "a dancer", "negative_prompt": None, "width": 64, "height": 64, "steps": 1, "guidance_scale": 5.0,
           "sampler": "euler", "seed": 7, "image_format": image_format,
           "image_text": {"darkroom:model": "tiny", "darkroom:request": "{}"}} | fields
    )  # fmt: skip
    device = SimulatedDevice(0.0)
    (image,) = device.finish(device.prepare(RenderJob("job", request)).rows)
    assert isinstance(image, RenderedImage)
    return image


async def signed_by(signer: Signer, *images: RenderedImage, said: Said = SAID, **fields: Any) -> Signed:
    return await Signing(signer.settings(**fields)).signed(images or (picture(),), said)


def pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as opened:
        return opened.convert("RGB").tobytes()


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
async def test_the_reader_of_c2pa_accepts_each_format(tmp_path: Path, image_format: str) -> None:
    signer, image = Signer(tmp_path), picture(image_format)
    signed = await signed_by(signer, image)
    (stored,) = signed.images
    read = json.loads(c2pa.Reader(image.content_type, io.BytesIO(stored.content)).json())
    assert read["validation_state"] == "Valid"
    found = credentials_of(stored.content, anchors_pem=signer.authority.read_text())
    assert found == Credentials(
        Worth.TRUSTED,
        signer="Studio North",
        algorithm="Es256",
        generator="Darkroom 0.1.0",
        model="tiny",
        revision="sha256:0123",
        source_type=DIGITAL_SOURCE_TYPE,
    )
    assert pixels(stored.content) == pixels(image.content)
    assert infotext.line_in(stored.content) == infotext.line_in(image.content) is not None
    assert signed.unsigned_sha256 == (hashlib.sha256(image.content).hexdigest(),)
    assert signed.warnings == ()
    assert len(stored.content) - len(image.content) < 8192, "no thumbnail"


@pytest.mark.parametrize("algorithm", [*CURVES, "ps256", "ed25519"])
async def test_every_kind_of_key_signs(tmp_path: Path, algorithm: str) -> None:
    signer = Signer(tmp_path, algorithm=algorithm)
    signed = await signed_by(signer)
    assert credentials_of(signed.images[0].content, anchors_pem=signer.authority.read_text()).worth is Worth.TRUSTED
    assert signed.provenance is not None
    assert (signed.provenance.algorithm, signed.provenance.timestamped) == (algorithm, False)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
async def test_one_changed_byte_is_found(tmp_path: Path, image_format: str) -> None:
    signed = await signed_by(Signer(tmp_path), picture(image_format))
    content = bytearray(signed.images[0].content)
    content[-20] ^= 1
    found = credentials_of(bytes(content))
    assert found.worth is Worth.INVALID
    assert found.failures


async def test_two_signatures_of_a_picture_differ_and_its_own_digest_does_not(tmp_path: Path) -> None:
    signing = Signing(Signer(tmp_path).settings())
    first, again = [await signing.signed((picture(),), SAID) for _ in range(2)]
    assert first.images[0].content != again.images[0].content
    assert first.unsigned_sha256 == again.unsigned_sha256


async def test_pictures_signed_at_one_time_are_each_their_own(tmp_path: Path) -> None:
    signing = Signing(Signer(tmp_path).settings())
    made = await asyncio.gather(*(signing.signed((picture(seed=n),), SAID) for n in range(16)))
    assert {credentials_of(one.images[0].content).worth for one in made} == {Worth.VALID}
    assert len({one.unsigned_sha256 for one in made}) == 16


async def test_a_request_is_named_by_digest_where_the_operator_wants_it(tmp_path: Path) -> None:
    signed = await signed_by(Signer(tmp_path), said=replace(SAID, request="sha256:ab"))
    assert credentials_of(signed.images[0].content).request == "sha256:ab"


# --- Ingredients ----------------------------------------------------------------------------------------


def asked(**pose: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"request_id": "r", "prompt": "p", "pose": pose})


def test_the_pictures_of_a_request_are_its_ingredients() -> None:
    stored = {"bucket": "darkroom", "key": "studio/pose.png"}
    png = picture().content
    assert ingredients_of(asked(people=[[[0.5, 0.5]] * 18]), {}) == ()
    assert ingredients_of(asked(image=stored), {"pose": png}) == (Ingredient("pose", png, "image/png"),)
    assert ingredients_of(asked(photo=stored), {"pose": png}) == (Ingredient("photo", png, "image/png"),)


async def test_an_ingredient_keeps_its_own_credentials(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    inner = (await signed_by(signer)).images[0].content
    outer = await signed_by(signer, said=replace(SAID, ingredients=(Ingredient("pose", inner, "image/png"),)))
    found = credentials_of(outer.images[0].content)
    assert (found.worth, found.ingredients, outer.warnings) == (Worth.VALID, ("pose",), ())
    read = json.loads(c2pa.Reader("image/png", io.BytesIO(outer.images[0].content)).json())
    assert len(read["manifests"]) == 2


@pytest.mark.parametrize("harm", ["changed", "cut", "no picture"])
async def test_a_broken_ingredient_costs_no_picture(tmp_path: Path, harm: str) -> None:
    signer = Signer(tmp_path)
    inner = bytearray((await signed_by(signer)).images[0].content)
    inner[-20] ^= 1
    content = {"changed": bytes(inner), "cut": bytes(inner[:300]), "no picture": b"text"}[harm]
    said = replace(SAID, ingredients=(Ingredient("photo", content, "image/png"),))
    signed = await signed_by(signer, said=said)
    found = credentials_of(signed.images[0].content)
    assert found.worth is Worth.VALID
    assert found.ingredients == (("photo",) if harm == "changed" else ())
    assert [("photo" in one) for one in signed.warnings] == ([] if harm == "changed" else [True])


# --- Timestamps -----------------------------------------------------------------------------------------


async def test_a_timestamp_authority_dates_the_signature(tmp_path: Path) -> None:
    with timestamp_authority(tmp_path) as (url, queries):
        signed = await signed_by(Signer(tmp_path), picture(), picture("webp"), timestamp_url=url)
    assert [credentials_of(image.content).signed_at is not None for image in signed.images] == [True, True]
    assert signed.provenance is not None
    assert signed.provenance.timestamped
    assert signed.warnings == ()
    assert len(queries) == 2


@pytest.mark.parametrize("mode", ["required", "best_effort"])
async def test_an_authority_that_hangs_or_is_away_loses_no_picture_and_is_left_alone(tmp_path: Path, mode: str) -> None:
    now = 0.0
    with silent_server() as url:
        signing = Signing(
            Signer(tmp_path).settings(timestamp_url=url, mode=mode), timestamp_s_max=0.2, clock=lambda: now
        )
        first = await signing.signed((picture(),), SAID)
        began = time.monotonic()
        again = await signing.signed((picture(),), SAID)
        assert time.monotonic() - began < 0.2, "it was not asked again"
    for signed in (first, again):
        assert credentials_of(signed.images[0].content).worth is Worth.VALID
        assert url in signed.warnings[0]
        assert signed.provenance is not None
        assert not signed.provenance.timestamped
    now = 61.0
    refused = await signing.signed((picture(),), SAID)  # nobody listens there any more
    assert "timestamp" in refused.warnings[0]


async def test_a_picture_that_cannot_be_signed_is_not_held_against_the_authority(tmp_path: Path) -> None:
    with timestamp_authority(tmp_path) as (url, _):
        signing = Signing(Signer(tmp_path / "signer").settings(timestamp_url=url))
        with pytest.raises(PictureNotSigned):
            await signing.signed((replace(picture(), content=b"\x89PNG broken"),), SAID)
        signed = await signing.signed((picture(),), SAID)
    assert signed.provenance is not None
    assert signed.provenance.timestamped


# --- Certificates that do not fit -----------------------------------------------------------------------


def swapped(signer: Signer, folder: Path) -> Signer:
    signer.key.write_bytes(Signer(folder / "other").key.read_bytes())
    return signer


def turned(signer: Signer) -> Signer:
    first, second = signer.chain.read_text().split("-----END CERTIFICATE-----\n")[:2]
    signer.chain.write_text(f"{second}-----END CERTIFICATE-----\n{first}-----END CERTIFICATE-----\n")
    return signer


def with_password(signer: Signer) -> Signer:
    key = serialization.load_pem_private_key(signer.key.read_bytes(), None)
    kept = serialization.BestAvailableEncryption(b"secret")
    signer.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kept))
    return signer


def written(signer: Signer, **files: bytes) -> Signer:
    for name, content in files.items():
        getattr(signer, name).write_bytes(content)
    return signer


UNFIT: dict[str, tuple[Callable[[Path], Signer], str]] = {
    "expired": (lambda at: Signer(at, since=-3 * DAY, until=-DAY), "expired on"),
    "not yet valid": (lambda at: Signer(at, since=DAY, until=3 * DAY), "is valid from"),
    "another key": (lambda at: swapped(Signer(at), at), "does not belong to the certificate of Studio North"),
    "authority first": (lambda at: turned(Signer(at)), "belongs to certificate 2 of the file"),
    "a server's": (lambda at: Signer(at, uses=ExtendedKeyUsageOID.SERVER_AUTH), "emailProtection"),
    "no use named": (lambda at: Signer(at, uses=None), "emailProtection"),
    "not for signatures": (lambda at: Signer(at, signs=False), "keyUsage digitalSignature"),
    "self-signed": (lambda at: Signer(at, self_signed=True), "test-certificate"),
    "a password": (lambda at: with_password(Signer(at)), "protected by a password"),
    "no PEM": (lambda at: written(Signer(at), chain=b"0\x82"), "The certificate file holds no PEM"),
    "no key": (lambda at: written(Signer(at), key=b"none"), "no private key in PEM"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_sign_is_a_sentence_at_the_start(tmp_path: Path, name: str) -> None:
    make, said = UNFIT[name]
    with pytest.raises(SettingsError, match=said):
        signing_of(make(tmp_path).settings())


@pytest.mark.parametrize("missing", ["chain", "key"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    signer = Signer(tmp_path)
    getattr(signer, missing).unlink()
    with pytest.raises(SettingsError, match=f"{missing}.pem"):
        signing_of(signer.settings())


def test_without_a_certificate_nothing_is_signed() -> None:
    assert signing_of(ProvenanceSettings()) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"cert_file": "a"},
        {"key_file": "a"},
        {"cert_file": "a", "key_file": "b", "signer": "m:f"},
        {"cert_file": "a", "signer": "m"},
        {"timestamp_url": "http://127.0.0.1/"},
        {"timestamp_url": "ftp:x"},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"belong together|two ways to sign|nothing is signed|should match"):
        ProvenanceSettings(**fields)


@pytest.mark.parametrize("name", UNFIT)
async def test_best_effort_stores_pictures_unsigned_and_says_so(tmp_path: Path, name: str) -> None:
    make, said = UNFIT[name]
    signing = signing_of(make(tmp_path).settings(mode="best_effort"))
    assert signing is not None
    signed = await signing.signed((picture(),), SAID)
    assert (signed.images, signed.provenance, signed.unsigned_sha256) == ((picture(),), None, ())
    (warning,) = signed.warnings
    assert warning.startswith("not signed with content credentials: ")
    assert said.split(" ")[0] in warning


async def test_a_certificate_that_expires_holds_pictures_back_until_it_is_renewed(tmp_path: Path) -> None:
    now, today = 0.0, datetime.datetime.now(datetime.UTC)
    signer = Signer(tmp_path)
    signing = Signing(signer.settings(), clock=lambda: now, wall=lambda: today)
    await signing.signed((picture(),), SAID)
    today += 2 * DAY
    with pytest.raises(CannotSign, match="put a new one and its key in place, the key first"):
        await signing.signed((picture(),), SAID)
    renewed = Signer(tmp_path, until=9 * DAY, name="Studio South")
    now += 60
    today -= 2 * DAY - datetime.timedelta(hours=1)
    signed = await signing.signed((picture(),), SAID)
    found = credentials_of(signed.images[0].content, anchors_pem=renewed.authority.read_text())
    assert (found.worth, found.signer) == (Worth.TRUSTED, "Studio South")


async def test_a_renewal_that_is_half_done_leaves_the_old_certificate_in_force(tmp_path: Path) -> None:
    now = 0.0
    signer = Signer(tmp_path)
    old = signer.authority.read_text()
    signing = Signing(signer.settings(), clock=lambda: now)
    written(signer, chain=Signer(tmp_path / "new").chain.read_bytes())
    now += 60
    signed = await signing.signed((picture(),), SAID)
    assert credentials_of(signed.images[0].content, anchors_pem=old).worth is Worth.TRUSTED


async def test_a_picture_that_c2pa_cannot_read_is_told_from_a_certificate_that_cannot_sign(tmp_path: Path) -> None:
    signer, broken = Signer(tmp_path), replace(picture(), content=b"\x89PNG broken")
    with pytest.raises(PictureNotSigned, match="c2pa does not sign this picture"):
        await signed_by(signer, broken)
    signed = await signed_by(signer, broken, mode="best_effort")
    assert (signed.images, signed.provenance) == ((broken,), None)


# --- Keys that are elsewhere ----------------------------------------------------------------------------

KMS = """
import threading
from pathlib import Path
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

KEY = serialization.load_pem_private_key(Path({key!r}).read_bytes(), None)
broken = False

def sign(data):
    if broken:
        raise ConnectionError("the KMS is away")
    if isinstance(KEY, ec.EllipticCurvePrivateKey):
        digest = {{256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}}[KEY.key_size]
        return KEY.sign(data, ec.ECDSA(digest))
    if hasattr(KEY, "decrypt"):
        return KEY.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    return KEY.sign(data)

def as_cose(data):
    return b"".join(one.to_bytes(32, "big") for one in decode_dss_signature(sign(data)))

def hangs(data):
    threading.Event().wait()

def wrong(data):
    return "text"

number = 7
"""


@pytest.fixture
def kms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[ProvenanceSettings, Any]]:
    """A module of the deployment's own that signs with a key that Darkroom is not given."""

    def made(function: str, algorithm: str = "es256", **fields: Any) -> tuple[ProvenanceSettings, Any]:
        name = f"kms_{tmp_path.name}_{algorithm}".replace("-", "_").replace(".", "_")
        signer = Signer(tmp_path / algorithm, algorithm=algorithm)
        (tmp_path / f"{name}.py").write_text(KMS.format(key=str(signer.key)))
        monkeypatch.syspath_prepend(tmp_path)
        settings = ProvenanceSettings(cert_file=signer.chain, signer=f"{name}:{function}", **fields)
        return settings, lambda: sys.modules[name]

    return made


@pytest.mark.parametrize(
    ("function", "algorithm"),
    [
        ("sign", "es256"),
        ("sign", "es384"),
        ("sign", "es512"),
        ("sign", "ps256"),
        ("sign", "ed25519"),
        ("as_cose", "es256"),
    ],
)
async def test_a_kms_signs(kms: Any, function: str, algorithm: str) -> None:
    settings, _ = kms(function, algorithm)
    signed = await Signing(settings).signed((picture(),), SAID)
    assert credentials_of(signed.images[0].content).worth is Worth.VALID
    assert signed.provenance is not None
    assert signed.provenance.algorithm == algorithm


async def test_a_kms_that_goes_away_holds_pictures_back_until_it_is_there_again(kms: Any) -> None:
    settings, module = kms("sign")
    signing = Signing(settings)
    module().broken = True
    with pytest.raises(CannotSign, match="the KMS is away"):
        await signing.signed((picture(),), SAID)
    module().broken = False
    assert (await signing.signed((picture(),), SAID)).provenance is not None


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("hangs", "did not answer within"),
        ("wrong", "returned str in place of bytes"),
        ("number", "is no function"),
        ("missing", "cannot be imported"),
    ],
)
def test_a_signer_that_cannot_sign_is_a_sentence_at_the_start(
    kms: Any, monkeypatch: pytest.MonkeyPatch, function: str, said: str
) -> None:
    monkeypatch.setattr(remote_signer, "SIGNER_S_MAX", 0.2)
    settings, _ = kms(function)
    with pytest.raises(SettingsError, match=said):
        signing_of(settings)


# --- The commands ---------------------------------------------------------------------------------------


def test_the_test_certificate_signs_says_what_it_is_and_overwrites_nothing(tmp_path: Path) -> None:
    made = CliRunner().invoke(main, ["provenance", "test-certificate", str(tmp_path / "certificates"), "--json"])
    assert made.exit_code == 0, made.output
    paths = json.loads(made.stdout)
    assert Path(paths["key"]).stat().st_mode & 0o077 == 0, "the key is the owner's alone"
    signing = signing_of(ProvenanceSettings(cert_file=paths["chain"], key_file=paths["key"]))
    assert signing is not None
    signed = asyncio.run(signing.signed((picture(),), SAID))
    file = tmp_path / "picture.png"
    file.write_bytes(signed.images[0].content)
    assert ORGANIZATION.encode() in file.read_bytes()
    for trusting, worth in ([], "valid"), (["--trust", paths["authority"]], "trusted"):
        verified = CliRunner().invoke(main, ["provenance", "verify", str(file), "--json", *trusting])
        assert verified.exit_code == 0, verified.output
        assert json.loads(verified.stdout)["worth"] == worth
    again = CliRunner().invoke(main, ["provenance", "test-certificate", str(tmp_path / "certificates")])
    assert (again.exit_code, "is there already" in again.output) == (1, True)


def test_verify_tells_what_a_picture_is_worth(tmp_path: Path) -> None:
    signer = Signer(tmp_path / "one")
    stranger = Signer(tmp_path / "other")
    content = asyncio.run(signed_by(signer)).images[0].content
    changed = bytearray(content)
    changed[-20] ^= 1
    cases: list[tuple[bytes, list[str], int, str]] = [
        (content, [], 0, "as it was signed"),
        (content, ["--trust", str(signer.authority)], 0, "the signer is trusted"),
        (content, ["--trust", str(stranger.authority)], 1, "vouches for the signer"),
        (bytes(changed), [], 1, "NOT as it was signed"),
        (picture().content, [], 1, "without content credentials"),
        (content[:200], [], 1, "NOT as it was signed"),
        (b"text", [], 1, "it is no PNG, JPEG or WebP"),
    ]
    file = tmp_path / "picture.png"
    for given, options, code, said in cases:
        file.write_bytes(given)
        run = CliRunner().invoke(main, ["provenance", "verify", str(file), *options])
        assert (run.exit_code, said in run.output) == (code, True), run.output
