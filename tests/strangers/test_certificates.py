"""Proves that certificates and keys as other tools write them sign pictures, or are refused by name with a way out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.consumer.provenance.certificate import CertificateError, read_identity
from darkroom.consumer.provenance.manifest import Writer
from tests.strangers.table import Stranger, rows

EXTENSIONS = (
    "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
    "extendedKeyUsage=emailProtection\nauthorityKeyIdentifier=keyid\n"
)


class OpenSsl:
    """A certificate of an authority and one that it issued, as OpenSSL's commands make them in a folder."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        (folder / "extensions").write_text(EXTENSIONS)
        self("ecparam -name prime256v1 -genkey -out ca.key")
        self("req -x509 -new -key ca.key -out ca.pem -subj /CN=CA -days 2")
        self(key)
        self("req -new -key leaf.key -subj /CN=Leaf/O=Tests -out leaf.csr")
        self(
            "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out leaf.pem"
        )
        (folder / "chain.pem").write_bytes(self.read("leaf.pem") + self.read("ca.pem"))

    def __call__(self, command: str) -> None:
        done = subprocess.run(
            ["openssl", *command.split()], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name


SEC1 = "ecparam -name prime256v1 -genkey -out leaf.key"
"""EC PARAMETERS stand before the EC PRIVATE KEY."""
PKCS8_RSA = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out leaf.key"
PKCS1_RSA = "genrsa -traditional -out leaf.key 2048"
ED25519 = "genpkey -algorithm ed25519 -out leaf.key"
CURVE_OF_BITCOIN = "ecparam -name secp256k1 -genkey -noout -out leaf.key"

Files = Callable[[OpenSsl], tuple[str, str]]


def plain(_: OpenSsl) -> tuple[str, str]:
    return "chain.pem", "leaf.key"


def from_pkcs12(made: OpenSsl) -> tuple[str, str]:
    """Certificates and key in one file, with Bag Attributes between them."""
    made("pkcs12 -export -inkey leaf.key -in leaf.pem -certfile ca.pem -passout pass: -out both.p12")
    made("pkcs12 -in both.p12 -nodes -passin pass: -out both.pem")
    return "both.pem", "both.pem"


def with_text(made: OpenSsl) -> tuple[str, str]:
    made("x509 -in leaf.pem -text -out text.pem")
    return made.write("with_text.pem", made.read("text.pem") + made.read("ca.pem")), "leaf.key"


def from_windows(made: OpenSsl) -> tuple[str, str]:
    chain, key = (made.read(name).replace(b"\n", b"\r\n") for name in ("chain.pem", "leaf.key"))
    return made.write("windows.pem", b"\xef\xbb\xbf" + chain), made.write("windows.key", key)


def as_der(made: OpenSsl) -> tuple[str, str]:
    made("x509 -in leaf.pem -outform DER -out leaf.der")
    return "leaf.der", "leaf.key"


def as_pkcs12(made: OpenSsl) -> tuple[str, str]:
    made("pkcs12 -export -inkey leaf.key -in leaf.pem -certfile ca.pem -passout pass: -out both.p12")
    return "both.p12", "leaf.key"


def encrypted(made: OpenSsl) -> tuple[str, str]:
    made("pkcs8 -topk8 -in leaf.key -passout pass:secret -out encrypted.key")
    return "chain.pem", "encrypted.key"


def swapped_files(_: OpenSsl) -> tuple[str, str]:
    return "leaf.key", "chain.pem"


TABLE: list[Stranger[tuple[str, Files], str]] = [
    Stranger("EC key, SEC 1", "OpenSSL 3 ecparam", (SEC1, plain), "es256"),
    Stranger("RSA key, PKCS 8", "OpenSSL 3 genpkey", (PKCS8_RSA, plain), "ps256"),
    Stranger("RSA key, PKCS 1", "OpenSSL 3 genrsa", (PKCS1_RSA, plain), "ps256"),
    Stranger("Ed25519", "OpenSSL 3 genpkey", (ED25519, plain), "ed25519"),
    Stranger("one file out of a PKCS 12", "OpenSSL 3 pkcs12 -nodes", (SEC1, from_pkcs12), "es256"),
    Stranger("text before the certificate", "OpenSSL 3 x509 -text", (SEC1, with_text), "es256"),
    Stranger("CRLF and a byte order mark", "Notepad of Windows 10", (SEC1, from_windows), "es256"),
    Stranger("DER", "OpenSSL 3 x509 -outform DER", (SEC1, as_der), "turns a .der file into PEM"),
    Stranger("PKCS 12", "OpenSSL 3 pkcs12 -export", (SEC1, as_pkcs12), "openssl pkcs12 -nodes"),
    Stranger("a password", "OpenSSL 3 pkcs8 -topk8", (SEC1, encrypted), "openssl pkey -in KEY -out NEW"),
    Stranger("the two swapped", "a hand, 2026", (SEC1, swapped_files), "holds no PEM certificates"),
    Stranger("secp256k1", "OpenSSL 3 ecparam", (CURVE_OF_BITCOIN, plain), "P-256, P-384, P-521"),
]


@pytest.mark.parametrize("row", rows(TABLE))
def test_each_signs_or_is_told_apart(row: Stranger[tuple[str, Files], str], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here: install Debian's package openssl")
    key, files = row.given
    chain, key_file = files(OpenSsl(tmp_path, key))
    if " " not in row.right:
        identity = read_identity((tmp_path / chain).read_bytes(), tmp_path / key_file)
        Writer(identity).probe()
        assert (identity.algorithm, identity.subject) == (row.right, "Leaf")
        return
    with pytest.raises(CertificateError) as refused:
        read_identity((tmp_path / chain).read_bytes(), tmp_path / key_file)
    assert row.right in str(refused.value)
