"""The bounds and names of picture files that come from outside, for the worker, the gateway and the command line alike.

Three formats are read: PNG, JPEG and WebP. Every other one is refused under its own name, since a remedy that says
"save it anew" helps nobody who does not know that the telephone wrote HEIC.
"""

from __future__ import annotations

from typing import Final

PICTURE_FORMATS: Final = ("PNG", "JPEG", "WEBP")
"""As Pillow names them. Its other forty decoders are no way in."""

JPEG_REDUCTION_MAX: Final = 4
"""A JPEG above the pixel bound is decoded at a half or a quarter of its sides (ITU T.81's blocks are transformed to
4 x 4 or 2 x 2 pixels), so that its header may name up to 16 times the bound. An eighth would leave less than a skeleton
needs."""
JPEG_PIXELS_MAX: Final = 89_478_485
"""No header may name more, whatever the bound: Pillow takes larger pictures for attacks. Telephones write 24, 48 and 50
million pixels."""

_MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF (or a camera's raw file)"),
    (0, b"MM\0*", "TIFF (or a camera's raw file)"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"<svg", "SVG"),
    (0, b"\x1a\x45\xdf\xa3", "a WebM or Matroska film"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PK\x03\x04", "a ZIP archive"),
)
"""Where a format's signature stands, and what people call it."""
_BRANDS: Final[dict[bytes, str]] = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "a camera's raw file (CR3)",
}
"""ISO/IEC 14496-12 files by their major brand; any other one is a film."""
_REMEDIES: Final[dict[str, str]] = {
    "HEIC": "Save it as JPEG (an iPhone does so under Settings, Camera, Formats, Most Compatible).",
    "a NumPy array": "Write its keypoints with .tolist() as JSON.",
}


def foreign_format(content: bytes) -> str | None:
    """Return the name of the format that `content` begins as, where it is a known one that is not read; else None."""
    head = content[:64]
    if head[4:8] == b"ftyp":
        # mif1 and msf1 say "some pictures": the brands behind them say which codec they need.
        compatible = content[16 : min(int.from_bytes(head[:4], "big"), 256)]
        if head[8:12] in (b"mif1", b"msf1") and b"avif" in compatible:
            return "AVIF"
        return _BRANDS.get(head[8:12], "a film (MP4 or QuickTime)")
    head = head.lstrip() if head.lstrip().startswith(b"<svg") else head
    return next((name for at, magic, name in _MAGIC if head[at:].startswith(magic)), None)


def foreign_remedy(name: str) -> str:
    """Return what somebody with a file of a format that `foreign_format` named can do."""
    return _REMEDIES.get(name, "Save it as PNG, JPEG or WebP.")


def jpeg_reduction(width: int, height: int, *, pixels_max: int, is_progressive: bool) -> int | None:
    """Return by how much the sides of a JPEG are divided while it is decoded: 1, 2 or 4; None where it is too large.

    A progressive JPEG is never reduced: libjpeg keeps all its coefficients, 6 bytes a pixel of the whole picture,
    however small it is decoded (284 MiB for 48 million pixels, where a sequential one takes 49).
    """
    reduction = 1
    while -(-width // reduction) * -(-height // reduction) > pixels_max:
        reduction *= 2
        if is_progressive or reduction > JPEG_REDUCTION_MAX or width * height > JPEG_PIXELS_MAX:
            return None
    return reduction
