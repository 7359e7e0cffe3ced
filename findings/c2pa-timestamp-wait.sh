#!/usr/bin/env bash
# Guess:   a timestamp authority that takes the connection and never answers is a matter of c2pa's settings: there is a
#          time limit to set beside `ta_url`, or a signature without a timestamp comes back, since C2PA makes it optional.
# Instead: `Builder.sign` blocks for 30 seconds inside of the native call and then raises; nothing of the signature is
#          kept. No setting shortens it: the whole of `Settings` has no key for it, and an unknown one is taken silently.
#          Other threads sign with the same library meanwhile, so it is only the caller that is held.
# Matters: whoever signs where pictures are finished lets a stranger's server hold up the device for half a minute a
#          picture. A limit has to be put around the call, and the picture signed a second time without the authority.
# Source:  c2pa-python 0.38.1 (c2pa-rs 0.91), cryptography 50.0.2.
# Needs:   python3. Takes a good half minute. Reaches nothing but loopback once it is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet c2pa-python==0.38.1 cryptography==50.0.2 pillow==13.0.0
cat > "$folder/look.py" <<'PY'
import datetime
import io
import json
import socket
import threading
import time

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ACTIONS = {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE}]}
MANIFEST = json.dumps({"assertions": [{"label": "c2pa.actions", "data": ACTIONS}]})


def chain():
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "signer"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "finding")]
    )
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.KeyUsage(True, *[False] * 8), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False)
        .sign(authority, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    return (
        leaf.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
    )


def picture():
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "tan").save(content, "PNG")
    return content.getvalue()


def sign(authority_url):
    certificate, key = CHAIN
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", certificate, key, authority_url))
    settings = {"builder": {"thumbnail": {"enabled": False}}, "core": {"timestamp_timeout_s": 1, "http_timeout": 1}}
    builder = c2pa.Builder.from_json(MANIFEST, c2pa.Context.from_dict(settings))
    builder.sign(signer, "image/png", io.BytesIO(picture()), io.BytesIO())


CHAIN = chain()
silent = socket.create_server(("127.0.0.1", 0))
meanwhile = []


def others():
    time.sleep(2)  # the other call is well inside of its wait
    for _ in range(10):
        began = time.monotonic()
        sign(None)
        meanwhile.append(time.monotonic() - began)


beside = threading.Thread(target=others)
beside.start()
began, raised = time.monotonic(), None
try:
    sign(f"http://127.0.0.1:{silent.getsockname()[1]}/")
except c2pa.C2paError as error:
    raised = str(error)
took_s = time.monotonic() - began
beside.join()
print(f"c2pa {c2pa.sdk_version()}: raised after {took_s:.1f} s: {raised}")
print(f"another thread signed {len(meanwhile)} pictures meanwhile, the slowest in {max(meanwhile) * 1000:.0f} ms")
assert raised is not None, "a signature without a timestamp came back"
assert 25 < took_s < 40, "the wait is another one now, or a setting shortens it"
assert len(meanwhile) == 10
assert max(meanwhile) < 20, "the wait holds other threads, too"
print("as its head says")
PY
"$folder/venv/bin/python" "$folder/look.py"
