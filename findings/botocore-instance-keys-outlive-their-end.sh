#!/usr/bin/env bash
# Guess:   the keys of an instance end when the instance's metadata say so: botocore refreshes them before that end, and
#          keys whose end has passed are not handed out as good ones.
# Instead: keys that end within about 17 to 25 minutes get a new end, that far from now, inside of the client: keys with
#          a minute left count as good for at least 17 minutes, and so do keys that ended an hour ago. Only a log line at
#          level info tells. The same document from a container's service (ECS, EKS Pod Identity) keeps its true end.
# Matters: an address that is signed "until the keys' end" by botocore's word outlives the keys and answers 403 to
#          whoever opens it. The true end has to be read from the metadata themselves.
# Source:  botocore 1.44.8, utils.InstanceMetadataFetcher._evaluate_expiration. Amazon's documents answer as in the EC2
#          User Guide, "Retrieve security credentials from instance metadata".
# Needs:   python3. Takes a few seconds. Reaches nothing but loopback once it is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet botocore==1.44.8
cat > "$folder/look.py" <<'PY'
import json
import os
import threading
from bisect import bisect_left
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import botocore
from botocore.session import Session

life_s = 0
ROLE = "/latest/meta-data/iam/security-credentials/"


class Metadata(BaseHTTPRequestHandler):
    def do_PUT(self):
        self.say("session")

    def do_GET(self):
        ends = datetime.now(timezone.utc) + timedelta(seconds=life_s)
        keys = {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "AK", "SecretAccessKey": "s", "Token": "t"}
        keys |= {"Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"), "LastUpdated": "2026-01-01T00:00:00Z"}
        self.say("role" if self.path == ROLE else json.dumps(keys))

    def say(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def left_s():
    """By botocore's own answer to whether fewer than so many seconds are left."""
    found = Session().get_credentials()
    return bisect_left(range(48 * 3600), True, key=found.refresh_needed) - 1


server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_address[1]}"
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ["HOME"] = os.path.dirname(os.path.abspath(__file__))
os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = address
print("botocore", botocore.__version__)
seen = {}
for life_s in (6 * 3600, 60, -3600):
    seen[life_s] = left_s()
    print(f"instance:  keys that end in {life_s} s have {seen[life_s]} s left")
os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"{address}/keys"
life_s = 60
of_container = left_s()
print(f"container: keys that end in {life_s} s have {of_container} s left")
assert abs(seen[6 * 3600] - 6 * 3600) < 30, "a long life is kept"
assert seen[60] > 16 * 60, "a minute has become a quarter of an hour"
assert seen[-3600] > 16 * 60, "keys of the past are good again"
assert of_container <= 60, "a container's keys end when they end"
PY
"$folder/venv/bin/python" "$folder/look.py"
