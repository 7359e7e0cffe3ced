#!/usr/bin/env bash
# Guess: Pillow's draft() bounds the memory of a large JPEG, since libjpeg then decodes it at a half, a quarter or an
# eighth of its sides.
# Instead: it does so for sequential JPEGs alone. A progressive one comes in scans that each refine the whole picture, so
# libjpeg keeps every coefficient of the full size, 2 bytes each, whatever the scale: at an eighth some 50 times as much.
# Why it matters here: telephones' photos are decoded reduced, within a bound on memory; by the scale alone, a web
# tool's progressive JPEG of as many pixels would pass that bound several times over.
# Source: Pillow 12.0.0 (PIL/JpegImagePlugin.py, draft) with its libjpeg-turbo; libjpeg.txt, "Progressive JPEG support".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==12.0.0
cat > "$folder/look.py" <<'PY'
import io
import re
import sys
from pathlib import Path

import PIL
from PIL import Image, features

WIDTH, HEIGHT, SCALE = 8064, 6048, 8


def peak_mib() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def cost_mib(content: bytes) -> float:
    """What decoding at an eighth of the sides adds to the process at its peak."""
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mib()
    with Image.open(io.BytesIO(content)) as picture:
        picture.draft(None, (WIDTH // SCALE, HEIGHT // SCALE))
        picture.load()
        assert picture.size == (WIDTH // SCALE, HEIGHT // SCALE), picture.size
    return peak_mib() - before


kind = sys.argv[1]
file = Path(sys.argv[2]) / f"{kind}.jpg"
if len(sys.argv) > 3:
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(file, progressive=kind == "progressive", subsampling=0)
else:
    print(round(cost_mib(file.read_bytes())))
    print("Pillow", PIL.__version__, "libjpeg-turbo", features.version("libjpeg_turbo"), file=sys.stderr)
PY
declare -A cost
for kind in sequential progressive; do
    "$folder/venv/bin/python" "$folder/look.py" "$kind" "$folder" make
    cost[$kind]=$("$folder/venv/bin/python" "$folder/look.py" "$kind" "$folder")
    echo "$kind, 8064 x 6048 decoded at an eighth: ${cost[$kind]} MiB"
done
test "${cost[sequential]}" -lt 30
test "${cost[progressive]}" -gt 200
