#!/usr/bin/env bash
# Guess: moto's server decides among writers of one key as S3 does. A second put with If-None-Match: * is answered 412,
# Python's interpreter lock lets one thread run at a time, and the store is a dictionary in memory.
# Instead: it looks whether the object is there and writes it some steps later, on a thread for each connection. When
# threads change places between the two, both writers are answered 200, and the second one's bytes stand.
# Why it matters here: one put of a pair has to decide a request's outcome. A test that uses moto as its store fails now
# and then (here once in some forty runs of `init`, on a busy machine), and the product looks guilty.
# The interpreter changes threads every 5 ms by default, which makes it rare; below it may do so at any moment.
# Source: moto 5.2.5, moto/s3/responses.py, put_object (the check) and moto/s3/models.py, put_object (the write).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5
cat > "$folder/look.py" <<'PY'
import http.client
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version

PAIRS = 600
# moto checks no signature, and takes a caller without one for a stranger.
KNOWN = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=x"
}
SERVER = """
import sys
from moto.server import main
sys.setswitchinterval(1e-6)
main(["-p", sys.argv[1]])
"""


def put(port: int, path: str, body: bytes = b"", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    sent = {**KNOWN, **{name.replace("_", "-"): text for name, text in headers.items()}}
    connection.request("PUT", path, body, sent)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def pair(port: int, key: str) -> list[int]:
    start, got = threading.Barrier(2), []

    def writer(body: bytes) -> None:
        start.wait()
        got.append(put(port, key, body, If_None_Match="*"))

    threads = [threading.Thread(target=writer, args=(body,)) for body in (b"one", b"another")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(got)


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = subprocess.Popen(
    [sys.executable, "-c", SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
)
try:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    assert put(port, "/shop") == 200
    one_by_one = [put(port, "/shop/first", b"x", If_None_Match="*") for _ in range(2)]
    at_once = [pair(port, f"/shop/{number}") for number in range(PAIRS)]
finally:
    server.kill()
both = at_once.count([200, 200])
print(f"moto {version('moto')}, Python {sys.version.split()[0]}")
print(f"one after the other: {one_by_one}")
print(f"pairs of one moment: {PAIRS}, of which one won in {at_once.count([200, 412])} and both in {both}")
if one_by_one != [200, 412] or both == 0:
    sys.exit("moto behaves otherwise than the head of this script says")
PY
"$folder/venv/bin/python" "$folder/look.py"
