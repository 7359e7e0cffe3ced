"""The operator's certificate and key, checked before anything is signed with them.

What a certificate for content credentials must be, by C2PA 2.2 (14.5) and by what c2pa-rs 0.91 takes: signed by an
authority, fit for digital signatures, and for the protection of e-mail (or another use that the reader was told of).
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from darkroom.consumer.provenance.remote_signer import RemoteSigner

PEM_BYTES_MAX: Final = 256 * 1024
"""Dozens of certificates with the largest keys."""
RSA_BITS_MIN: Final = 2048
"""C2PA 2.2 (13.2.1) takes no shorter RSA keys."""
NO_CERTIFICATES: Final = (
    "The certificate file holds no PEM certificates (-----BEGIN CERTIFICATE-----). `openssl pkcs12 -nodes` takes a "
    ".p12 or .pfx file apart, and `openssl x509` turns a .der file into PEM."
)
_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_KEYS_THAT_FIT: Final = "P-256, P-384, P-521, RSA of 2048 bits or more, and Ed25519 fit"


class CertificateError(ValueError):
    """A certificate or a key that cannot sign content credentials: one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its chain and its key."""

    chain_pem: bytes
    """The signer's own certificate first."""
    key_pem: bytes | None
    """None where `signer` signs."""
    signer: RemoteSigner | None
    algorithm: str
    """As C2PA names it: `es256`, `ps256`, `ed25519`."""
    subject: str
    """The name that readers show."""
    digest: str
    """`sha256:` and the certificate's digest."""
    not_before: datetime.datetime
    not_after: datetime.datetime

    def flaw(self, now: datetime.datetime) -> str | None:
        """Return the sentence on a certificate that is not valid at a time; None where it is."""
        if now < self.not_before:
            return f"The certificate of {self.subject} is valid from {self.not_before:%Y-%m-%d %H:%M} UTC on."
        if now > self.not_after:
            return (
                f"The certificate of {self.subject} expired on {self.not_after:%Y-%m-%d %H:%M} UTC: put a new one and "
                "its key in place, the key first."
            )
        return None


def read_identity(chain_pem: bytes, key_file: Path | None, signer: str | None = None) -> Identity:
    """Return the identity of a PEM chain and the key in a file, or of what signs for it. Raises `CertificateError`.

    Dates are not looked at: `Identity.flaw` does that whenever something is signed.
    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise CertificateError(NO_CERTIFICATES) from error
    leaf = chain[0]
    algorithm = _algorithm_of(leaf.public_key())
    key_pem = None if key_file is None else _key_of(chain, key_file)
    _check_use(leaf)
    _check_chain(chain)
    return Identity(
        chain_pem=b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain),
        key_pem=key_pem,
        signer=None if signer is None else _remote(signer, algorithm),
        algorithm=algorithm,
        subject=_named(leaf),
        digest=f"sha256:{leaf.fingerprint(hashes.SHA256()).hex()}",
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def _key_of(chain: Sequence[x509.Certificate], key_file: Path) -> bytes:
    """Return the key in a file as PKCS 8, whatever form it has there."""
    key = _parsed(_read_key(key_file), key_file)
    _check_pair(chain, key, key_file)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _remote(signer: str, algorithm: str) -> RemoteSigner:
    try:
        return RemoteSigner(signer, algorithm)
    except ValueError as error:
        raise CertificateError(f"DARKROOM_PROVENANCE__SIGNER cannot be used: {error}. Correct it.") from error


def _read_key(key_file: Path) -> bytes:
    try:
        with key_file.open("rb") as file:
            content = file.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        raise CertificateError(
            f"The key file {key_file} cannot be read ({error.strerror}). Check the path and its rights."
        ) from error
    if len(content) > PEM_BYTES_MAX:
        raise CertificateError(f"The key file {key_file} has more than {PEM_BYTES_MAX} bytes and is no key.")
    return content


def _parsed(key_pem: bytes, key_file: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(key_pem, None)
    except TypeError as error:
        raise CertificateError(
            f"The key in {key_file} is protected by a password, which nobody types at a worker's start: write it "
            "without one (`openssl pkey -in KEY -out NEW`), readable by the worker alone."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"The key file {key_file} holds no private key in PEM (-----BEGIN PRIVATE KEY-----). Write one into it."
        ) from error


def _algorithm_of(key: PublicKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS_MIN:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    raise CertificateError(f"Content credentials are not signed with a key of this kind: {_KEYS_THAT_FIT}.")


def _check_pair(chain: Sequence[x509.Certificate], key: PrivateKeyTypes, key_file: Path) -> None:
    wanted = _public(key.public_key())
    if _public(chain[0].public_key()) == wanted:
        return
    place = next((number for number, one in enumerate(chain, 1) if _public(one.public_key()) == wanted), None)
    if place is not None:
        raise CertificateError(
            f"The key in {key_file} belongs to certificate {place} of the file. Put that one first, and those that "
            "vouch for it after it."
        )
    raise CertificateError(
        f"The key in {key_file} does not belong to the certificate of {_named(chain[0])}. Give the pair that was "
        "issued together."
    )


def _check_use(leaf: x509.Certificate) -> None:
    name = _named(leaf)
    try:
        usage = leaf.extensions.get_extension_for_oid(ExtensionOID.KEY_USAGE).value
        signs = isinstance(usage, x509.KeyUsage) and usage.digital_signature
    except x509.ExtensionNotFound:
        signs = False
    if not signs:
        raise CertificateError(
            f"The certificate of {name} is not for digital signatures: have one issued with keyUsage digitalSignature."
        )
    try:
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        is_for_people = ExtendedKeyUsageOID.EMAIL_PROTECTION in extended
    except x509.ExtensionNotFound:
        is_for_people = False
    if not is_for_people:
        raise CertificateError(
            f"The certificate of {name} lacks the extended key usage emailProtection, by which readers of content "
            "credentials know a signer: have one issued with it. Certificates of web servers do not fit."
        )


def _check_chain(chain: Sequence[x509.Certificate]) -> None:
    leaf = chain[0]
    if leaf.issuer == leaf.subject:
        raise CertificateError(
            f"The certificate of {_named(leaf)} is signed by itself, and no reader takes such a one: have it issued "
            "by an authority. `darkroom provenance test-certificate` makes a chain for trying things out."
        )
    for child, parent in itertools.pairwise(chain):
        try:
            child.verify_directly_issued_by(parent)
        except Exception as error:  # the key's own kind decides which exception it is
            raise CertificateError(
                f"The certificate of {_named(child)} was not issued by that of {_named(parent)}, which follows it in "
                "the file. Put each before the one that vouches for it."
            ) from error


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _named(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()
