#!/usr/bin/env bash
# Guess:   Pillow writes an EXIF UserComment as the standard has it, type UNDEFINED (7), when it is given the bytes with
#          their character code ("UNICODE", UTF-16), since it knows the tag by name (ExifTags.Base.UserComment).
# Instead: it writes type BYTE (1), because its table of types lacks the tag and bytes without a known type become BYTE.
#          Pillow and exiftool read that back all the same. piexif gives a tuple of numbers for BYTE, and its own
#          `helper.UserComment.load` raises "unable to determine appropriate encoding".
# Matters: Stable Diffusion web UI (A1111) and its relatives read generation parameters from JPEG and WebP by piexif: a
#          picture that looks right in every other reader brings no settings back there.
# Source:  pillow 13.0.0 (TiffImagePlugin, ImageFileDirectory_v2._setitem; TiffTags), piexif 1.1.3 (helper.py);
#          CIPA DC-008 (Exif), 4.6.5, UserComment.
# Needs:   python3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 piexif==1.1.3
cat > "$folder/look.py" <<'PY'
import io

import PIL
import piexif
import piexif.helper
from PIL import ExifTags, Image

COMMENT = b"UNICODE\0" + "Steps: 22".encode("utf-16-be")
picture = Image.new("RGB", (8, 8))


def saved(exif, form):
    content = io.BytesIO()
    picture.save(content, form, exif=exif)
    return Image.open(io.BytesIO(content.getvalue()))


for form in ("JPEG", "WEBP"):
    by_pillow = Image.Exif()
    by_pillow.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = COMMENT
    read = saved(by_pillow, form)
    assert read.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] == COMMENT, "Pillow reads itself"
    value = piexif.load(read.info["exif"])["Exif"][piexif.ExifIFD.UserComment]
    try:
        said = piexif.helper.UserComment.load(value)
    except ValueError as error:
        said = f"ValueError: {error}"
    print(f"pillow {PIL.__version__}, {form}: piexif sees a {type(value).__name__}; {said}")
    assert type(value) is tuple, "Pillow writes UNDEFINED now"
    assert said.startswith("ValueError")

    by_piexif = piexif.dump({"Exif": {piexif.ExifIFD.UserComment: COMMENT}})
    value = piexif.load(saved(by_piexif, form).info["exif"])["Exif"][piexif.ExifIFD.UserComment]
    assert piexif.helper.UserComment.load(value) == "Steps: 22"
print("as its head says")
PY
"$folder/venv/bin/python" "$folder/look.py"
