#!/usr/bin/env bash
# Guess: in COCO's annotations of keypoints the k-th point is the k-th name of its category's `keypoints`, as COCO says.
# Instead: Label Studio's export lists the names as the labelling configuration does and the points by `model_index`, so
# that a nose stands under the name of a wrist wherever the two orders differ.
# Why it matters here: a reader that trusts the names exchanges joints, and one that trusts the number of points does so
# for files of others. Which order is meant shows in the limbs alone, so the one with the shorter limbs is read.
# Source: label-studio-sdk 2.1.2 (converter/keypoints.py: update_categories_for_keypoints and build_kp_order);
# cocodataset.org/#format-data, keypoint detection.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet label-studio-sdk==2.1.2
cat > "$folder/export.py" <<'PY'
import json
import sys
from importlib.metadata import version
from pathlib import Path

from label_studio_sdk.converter import Converter

CONFIGURATION = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image"><Label value="person"/></RectangleLabels>
<KeyPointLabels name="joints" toName="image"><Label value="right_wrist" model_index="2"/>
<Label value="nose" model_index="0"/><Label value="neck" model_index="1"/></KeyPointLabels></View>"""
PLACES = {"right_wrist": (75, 50), "nose": (10, 10), "neck": (20, 20)}
"""Percent of a picture of 200 x 100 pixels."""

folder = Path(sys.argv[1])
results = [
    {
        "type": "keypointlabels",
        "from_name": "joints",
        "to_name": "image",
        "original_width": 200,
        "original_height": 100,
        "value": {"x": x, "y": y, "width": 1, "keypointlabels": [label]},
    }
    for label, (x, y) in PLACES.items()
]
task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"id": 1, "completed_by": 1, "result": results}]}
(folder / "tasks.json").write_text(json.dumps([task]))
converter = Converter(CONFIGURATION, str(folder), download_resources=False)
converter.convert_to_coco(str(folder / "tasks.json"), str(folder / "out"), str(folder / "out"), is_dir=False)
made = json.loads((folder / "out" / "result.json").read_text())
names = next(category["keypoints"] for category in made["categories"] if "keypoints" in category)
flat = made["annotations"][0]["keypoints"]
read = {name: (flat[3 * at] / 2, flat[3 * at + 1]) for at, name in enumerate(names)}
print(f"label-studio-sdk {version('label-studio-sdk')}: names {names}, points {flat}")
print(f"placed {PLACES}, read by the names {read}")
assert set(names) == set(PLACES)
assert read != PLACES, "the points are in the order of the names"
assert read == {"right_wrist": (10, 10), "nose": (20, 20), "neck": (75, 50)}, "the points are in another order"
PY
"$folder/venv/bin/python" "$folder/export.py" "$folder" 2>/dev/null
