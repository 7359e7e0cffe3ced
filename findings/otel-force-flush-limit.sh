#!/usr/bin/env bash
# Guess:   `TracerProvider.force_flush(timeout_millis=1000)` of OpenTelemetry's Python SDK returns after a second at
#          the latest, with False where spans could not be sent by then, as its argument says.
# Instead: with the batch processor it returns when the exporter does, and says True. Beside a collector that takes the
#          connection and never answers, that is the exporter's own 10 s, whatever limit the flush was given.
# Matters: a worker flushes as it ends; its drain, and the pod's grace period, would wait for a stranger. The flush has to
#          run in a thread that is left behind, or the exporter needs a shorter limit of its own for all of its life.
# Source:  opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http 1.45.2; OpenTelemetry specification, "Trace SDK",
#          ForceFlush: it should complete or abort within some timeout.
# Needs:   python3. Takes half a minute. Reaches nothing but loopback once it is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2
cat > "$folder/look.py" <<'PY'
import importlib.metadata
import socket
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

silent = socket.create_server(("127.0.0.1", 0))
exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(BatchSpanProcessor(exporter))
provider.get_tracer("finding").start_span("one").end()
began = time.monotonic()
answer = provider.force_flush(timeout_millis=1000)
took_s = time.monotonic() - began
version = importlib.metadata.version("opentelemetry-sdk")
print(f"opentelemetry-sdk {version}: force_flush of 1 s: {answer} after {took_s:.1f} s")
assert took_s > 5, "the limit is kept now"
assert answer is True, "it says now that spans were not sent"
print("as its head says")
PY
"$folder/venv/bin/python" "$folder/look.py"
