#!/usr/bin/env bash
# OpenAI's official clients repeat a POST after a lost answer without an Idempotency-Key.
#
# Guess:   Both clients retry twice by default, so each repetition carries the Idempotency-Key of the first attempt, as
#          other clients of the same generator do; the Python client does make a key for every POST.
# Instead: openai-python 3.57.0 makes the key and has no header to send it in; openai-node 7.59.0 likewise. A server
#          that answers 500, or too late, gets the same order three times and cannot tell. Only the header
#          x-stainless-retry-count (0, 1, 2) differs, and x-should-retry: false in an answer keeps the client from it.
# Matters: POST /v1/images/generations makes a job each time. A repetition paints and bills the picture again unless the
#          answer says x-should-retry: false, or the caller gives its own Idempotency-Key.
# Source:  openai-python, _base_client.py: `_idempotency_header` is None and nothing sets it; openai-node, src/client.ts:
#          `idempotencyHeader` is never assigned.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet openai==3.57.0
npm install --silent --no-fund --no-audit openai@7.59.0 >/dev/null
cat > server.py <<'PY'
"""Answer the first two orders with 500 and the third with 400, which ends the client; print what came."""
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        count = self.headers.get("x-stainless-retry-count")
        print(json.dumps({"retry": count, "key": self.headers.get("idempotency-key")}), flush=True)
        stop = self.path.startswith("/stop")
        self.send_response(500)
        if stop:
            self.send_header("x-should-retry", "false")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, file=sys.stderr, flush=True)
server.serve_forever()
PY
python3 server.py > seen 2> port &
serving=$!
trap 'kill $serving 2>/dev/null; rm -rf "$folder"' EXIT
until [ -s port ]; do sleep 0.1; done
export PORT=$(cat port) OPENAI_API_KEY=none NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
cat > client.py <<'PY'
import os, sys, openai
client = openai.OpenAI(base_url=f"http://127.0.0.1:{os.environ['PORT']}/{sys.argv[1]}")
try:
    client.images.generate(model="any", prompt="a dancer")
except openai.InternalServerError:
    print("python", openai.__version__, sys.argv[1], "gave up")
PY
cat > client.mjs <<'JS'
import OpenAI from "openai";
const client = new OpenAI({ baseURL: `http://127.0.0.1:${process.env.PORT}/${process.argv[2]}` });
try { await client.images.generate({ model: "any", prompt: "a dancer" }); }
catch (error) { console.log("node", process.argv[2], "gave up after", error.status); }
JS
for kind in "venv/bin/python client.py" "node client.mjs"; do
  for way in go stop; do
    : > before; cp seen before; $kind $way
    tail -n +"$(($(wc -l < before) + 1))" seen | tee one
    wanted=$([ $way = go ] && echo 3 || echo 1)
    [ "$(wc -l < one)" = "$wanted" ] || { echo "DIFFERENT: $wanted attempts expected"; exit 1; }
    ! grep -v '"key": null' one || { echo "DIFFERENT: a key was sent"; exit 1; }
  done
done
echo "AS CLAIMED"
