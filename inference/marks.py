"""Marks a picture's file: it says that a model made the picture, and how. The same text in every format.

    PNG     text chunks; XMP in an iTXt chunk
    JPEG    EXIF (UserComment has the `parameters` line) and XMP, in APP1 segments
    WebP    EXIF and XMP chunks

XMP has IPTC's Digital Source Type (IPTC Photo Metadata Standard 2023.2, Iptc4xmpExt) in each of them. JPEG and WebP
have no text chunks, so their XMP carries the text, too, in a namespace of ours.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import quoteattr

from PIL.PngImagePlugin import PngInfo

from darkroom.inference.parameters_line import invokeai_metadata, parameters_line
from darkroom.inference.types import RenderRequest

DIGITAL_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's name for a picture that a trained model made, from their controlled vocabulary of source types."""
PARAMETERS: Final = "parameters"
"""The PNG keyword that A1111 chose for its line."""
INVOKEAI: Final = "invokeai_metadata"
"""The PNG keyword that InvokeAI chose; it reads no other format."""
REQUEST: Final = "darkroom:request"
SEED: Final = "darkroom:seed"
NAMESPACE: Final = "urn:darkroom:picture:1:"
"""Of our properties in XMP. XMP names a property by its namespace and name together, so the end separates them."""
SEGMENT_BYTES_MAX: Final = 65_000
"""A JPEG segment has 65,533 bytes, of which the names of EXIF and XMP take some (JPEG B.1.1.4, XMP part 3, 1.1.3)."""

_SOFTWARE_TAG: Final = 0x0131
_EXIF_IFD_TAG: Final = 0x8769
_USER_COMMENT_TAG: Final = 0x9286
_ASCII: Final = 2
_LONG: Final = 4
_UNDEFINED: Final = 7
_HEADER_BYTES: Final = 8
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (2.2) allows nowhere, not even escaped."""


def text_of(request: RenderRequest, seed: int) -> dict[str, str]:
    """Return the text of the image that is painted from `seed`: its settings, too, if the request tells them."""
    text: dict[str, str | None] = dict(request.image_text)
    if REQUEST in text:
        text[SEED] = str(seed)
        text[PARAMETERS] = parameters_line(request, seed=seed, model=request.image_text.get("darkroom:model", ""))
        text[INVOKEAI] = invokeai_metadata(request, seed=seed)
    # A folder's name, and with it a model's, may have bytes that are no UTF-8.
    return {key: value.encode("utf-8", "replace").decode() for key, value in text.items() if value is not None}


def png_text(text: Mapping[str, str]) -> PngInfo:
    """Return the chunks of a PNG's text and its XMP."""
    chunks = PngInfo()
    for key, value in text.items():
        # `add_text` falls back to an international chunk for characters outside of Latin-1.
        chunks.add_text(key, value)
    chunks.add_itxt("XML:com.adobe.xmp", _MARK)
    return chunks


def embedded(text: Mapping[str, str], image_format: str) -> dict[str, bytes]:
    """Return the EXIF and the XMP of a `jpeg` or a `webp`, as the arguments of Pillow's `save`.

    Without the request where it is too long for a JPEG, as that of eight people with hands and faces can be: the
    picture is still marked, and the `parameters` line stays.
    """
    packet = xmp(text)
    if image_format == "jpeg" and len(packet) > SEGMENT_BYTES_MAX:
        packet = xmp({key: value for key, value in text.items() if key != REQUEST})
    return {"exif": _exif(text.get(PARAMETERS)), "xmp": packet}


def xmp(text: Mapping[str, str]) -> bytes:
    """Return an XMP packet (XMP part 1, 7.3) with the source type, and those of `text` that are in our namespace."""
    ours = {key: value for key, value in text.items() if key.startswith("darkroom:")}
    attributes = {
        "xmlns:xmp": "http://ns.adobe.com/xap/1.0/",
        "xmlns:Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "xmp:CreatorTool": "darkroom",
        "Iptc4xmpExt:DigitalSourceType": DIGITAL_SOURCE_TYPE,
        **({"xmlns:darkroom": NAMESPACE} if ours else {}),
        **ours,
    }
    said = " ".join(f"{name}={quoteattr(_NOT_XML.sub('�', value))}" for name, value in attributes.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {said}/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def _exif(parameters: str | None) -> bytes:
    """Return EXIF (CIPA DC-008, 4.5.4 and 4.6) that names the software, with the `parameters` line as UserComment.

    Written by hand because Pillow gives UserComment the type BYTE, and piexif, by which A1111 reads it, then takes it
    for a list of numbers: it has to be UNDEFINED. A1111 reads a comment in UNICODE as big-endian UTF-16, whatever the
    file's order of bytes is; here all of the EXIF is big-endian, so that readers who go by the file's order agree.
    """
    software = b"darkroom\0"
    fields = 1 if parameters is None else 2
    software_at = _HEADER_BYTES + 2 + 12 * fields + 4
    tiff = struct.pack(">2sHLH", b"MM", 42, _HEADER_BYTES, fields)
    tiff += struct.pack(">HHLL", _SOFTWARE_TAG, _ASCII, len(software), software_at)
    if parameters is None:
        return b"Exif\0\0" + tiff + struct.pack(">L", 0) + software
    comment = b"UNICODE\0" + parameters.encode("utf-16-be")
    exif_at = software_at + len(software) + len(software) % 2  # an offset is even
    tiff += struct.pack(">HHLL", _EXIF_IFD_TAG, _LONG, 1, exif_at) + struct.pack(">L", 0)
    tiff += software.ljust(exif_at - software_at, b"\0")
    tiff += struct.pack(">HHHLL", 1, _USER_COMMENT_TAG, _UNDEFINED, len(comment), exif_at + 2 + 12 + 4)
    return b"Exif\0\0" + tiff + struct.pack(">L", 0) + comment


_MARK: Final = xmp({}).decode()
"""The XMP of every PNG: all else stands in its text."""
