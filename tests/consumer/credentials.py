"""Certificates, keys and timestamp authorities for tests of content credentials."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from darkroom.schemas.settings import ProvenanceSettings

DAY = datetime.timedelta(days=1)
CURVES = {"es256": ec.SECP256R1(), "es384": ec.SECP384R1(), "es512": ec.SECP521R1()}


def key_of(algorithm: str) -> Any:
    if algorithm == "ps256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return (
        ed25519.Ed25519PrivateKey.generate() if algorithm == "ed25519" else ec.generate_private_key(CURVES[algorithm])
    )


class Signer:
    """An authority and a signer's files in a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        algorithm: str = "es256",
        since: datetime.timedelta = -DAY,
        until: datetime.timedelta = DAY,
        uses: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.EMAIL_PROTECTION,
        signs: bool = True,
        self_signed: bool = False,
        name: str = "Studio North",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.chain, self.key, self.authority = folder / "chain.pem", folder / "key.pem", folder / "authority.pem"
        now = datetime.datetime.now(datetime.UTC)
        authority_key, key = ec.generate_private_key(ec.SECP256R1()), key_of(algorithm)
        subject, issuer = _named(name), _named(name if self_signed else f"{name} authority")
        by = key if self_signed else authority_key

        def building(named: x509.Name, public: Any) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(named)
                .issuer_name(issuer)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now + min(since, -DAY))
                .not_valid_after(now + max(until, DAY))
            )

        authority = (
            building(issuer, authority_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True, key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        leaf = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + since)
            .not_valid_after(now + until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=signs, content_commitment=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        if uses is not None:
            leaf = leaf.add_extension(x509.ExtendedKeyUsage([uses]), critical=uses == ExtendedKeyUsageOID.TIME_STAMPING)
        signed = leaf.sign(by, None if isinstance(by, ed25519.Ed25519PrivateKey) else hashes.SHA256())
        self.chain.write_bytes(pem(signed) + (b"" if self_signed else pem(authority)))
        self.authority.write_bytes(pem(authority))
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def settings(self, **fields: Any) -> ProvenanceSettings:
        return ProvenanceSettings(cert_file=self.chain, key_file=self.key, **fields)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")]
    )


def _usage(**uses: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names})


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@contextlib.contextmanager
def timestamp_authority(folder: Path) -> Iterator[tuple[str, list[bytes]]]:
    """OpenSSL's RFC 3161 authority behind HTTP: its address, and the queries that it was asked."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here: install Debian's package openssl")
    signer = Signer(folder / "tsa", uses=ExtendedKeyUsageOID.TIME_STAMPING, algorithm="ps256", name="Test timestamps")
    (folder / "serial").write_text("01\n")
    config = folder / "tsa.cnf"
    config.write_text(
        "[tsa]\ndefault_tsa = one\n[one]\n"
        f"serial = {folder}/serial\nsigner_cert = {signer.chain}\nsigner_key = {signer.key}\n"
        f"certs = {signer.chain}\ndefault_policy = 1.2.3.4\nsigner_digest = sha256\n"
        "digests = sha256, sha384, sha512\nordering = no\ntsa_name = no\ness_cert_id_alg = sha256\naccuracy = secs:1\n"
    )
    queries: list[bytes] = []
    asking = threading.Lock()

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["content-length"]))
            with asking:  # OpenSSL keeps the serial number in a file
                queries.append(query)
                (folder / "query").write_bytes(query)
                files = ["-config", config, "-queryfile", folder / "query", "-out", folder / "reply"]
                subprocess.run([openssl, "ts", "-reply", *files], check=True, capture_output=True)
                reply = (folder / "reply").read_bytes()
            self.send_response(200)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", queries
    finally:
        server.shutdown()
        server.server_close()
