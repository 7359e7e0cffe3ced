"""Names for what stands in a record in place of JSON, each with the producer's setting that avoids it.

Nothing here is needed to read a request. A producer whose records are refused reads these sentences, and a sentence
that names the format saves a search in a hex dump. Every function is total.
"""

from __future__ import annotations

import codecs
import re
import zlib
from typing import Any, Final

from darkroom.schemas.errors import bounded

_JSON_SERIALIZER = "publish with a JSON serializer"
_CONNECT = "in Kafka Connect use JsonConverter with schemas.enable=false"
_COMPRESSION = "leave compression to the producer's compression.type"
_UTF8 = "write UTF-8 (Kafka's StringSerializer: value.serializer.encoding=UTF-8)"

_MAGIC: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"\x1f\x8b", "gzip", _COMPRESSION),
    (b"\x28\xb5\x2f\xfd", "Zstandard", _COMPRESSION),
    (b"\x04\x22\x4d\x18", "LZ4", _COMPRESSION),
    (b"\x82SNAPPY\x00", "Snappy", _COMPRESSION),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy", _COMPRESSION),
    (b"BZh", "bzip2", _COMPRESSION),
    (b"\xfd7zXZ\x00", "xz", _COMPRESSION),
    (b"x\x01", "zlib", _COMPRESSION),
    (b"x\x5e", "zlib", _COMPRESSION),
    (b"x\x9c", "zlib", _COMPRESSION),
    (b"x\xda", "zlib", _COMPRESSION),
    (b"PK\x03\x04", "a ZIP archive", "publish the request itself"),
    (b"Obj\x01", "an Avro file", f"{_JSON_SERIALIZER}; {_CONNECT}"),
    (b"\xc3\x01", "Avro in single-object encoding", f"{_JSON_SERIALIZER}; {_CONNECT}"),
    (b"\xac\xed\x00\x05", "a serialized Java object", "set value.serializer to a JSON serializer"),
    (b":)\n", "Smile (Jackson's binary JSON)", "use Jackson's JsonFactory instead of SmileFactory"),
    (b"\xd9\xd9\xf7", "CBOR", _JSON_SERIALIZER),
    (b"\x89PNG", "a PNG picture", "publish a request whose pose names the picture"),
    (b"\xff\xd8\xff", "a JPEG picture", "publish a request whose pose names the picture"),
    (b"\xff\xfe\x00\x00", "UTF-32", _UTF8),
    (b"\x00\x00\xfe\xff", "UTF-32", _UTF8),
    (b"\x00\x00\x00{", "UTF-32", _UTF8),
    (b"{\x00\x00\x00", "UTF-32", _UTF8),
    (b"\xff\xfe", "UTF-16", _UTF8),
    (b"\xfe\xff", "UTF-16", _UTF8),
    (b"\x00{", "UTF-16", _UTF8),
    (b"{\x00", "UTF-16", _UTF8),
)
"""First bytes, from the formats' own definitions; none of them begins a JSON text in UTF-8."""

_TEXTS: Final[tuple[tuple[re.Pattern[bytes], str, str], ...]] = (
    (re.compile(rb"\s*<"), "XML", _JSON_SERIALIZER),
    (
        re.compile(rb"\s*(?:\[object |undefined\s*$)"),
        "a JavaScript value that became text by itself",
        "publish JSON.stringify(...) of it",
    ),
    (
        re.compile(rb"eyJ[A-Za-z0-9+/_-]+=*\s*$"),
        "base64",
        "publish the bytes themselves (Kafka Connect: ByteArrayConverter)",
    ),
    (
        re.compile(rb"\s*\{\s*'|.*:\s*(?:None|True|False)\s*[,}]", re.DOTALL),
        "a Python dictionary's repr",
        "publish json.dumps(...) of it",
    ),
    (
        re.compile(rb"\s*\w*\{\s*\w+="),
        "the text of a Java object",
        "set value.serializer to a JSON serializer; in Kafka Connect use JsonConverter with schemas.enable=false in "
        "place of StringConverter",
    ),
    (
        re.compile(rb"\s*(?://|/\*|#)|.*[,{\n\d\]}][ \t]*(?://|/\*)", re.DOTALL),
        "JSON with comments",
        "leave the comments out",
    ),
    (re.compile(rb".*,\s*[}\]]", re.DOTALL), "JSON with a comma before a closing bracket", "leave the comma out"),
    (re.compile(rb"\s*\{.*\}\s*\{", re.DOTALL), "several JSON texts", "publish each request as its own record"),
    (re.compile(rb"\s*\{\s*\w+\s*:"), "JSON5 or JavaScript", "publish JSON.stringify(...) of it"),
    (re.compile(rb"\w+=[^&{]*(?:&\w+=|$)"), "a form", _JSON_SERIALIZER),
    (re.compile(rb"(?:---\s)?\s*request_id:"), "YAML", _JSON_SERIALIZER),
)
_LOOKED_AT_BYTES_MAX = 4096
"""As much of a text as these patterns look at."""

_GLUE_HEADER_BYTES = 18
"""AWS Glue Schema Registry: a version (3), a compression (0 none, 5 zlib), and the schema version's UUID."""
_REGISTRY_PREFIX_BYTES = (5, 9)
"""A zero, then the schema's id: 4 bytes (Confluent, Karapace, Apicurio 3) or 8 (Apicurio 2 and its legacy handler)."""
_GUID_PREFIX_BYTES = 17
"""A one, then the schema's GUID: Confluent's wire format of version 1."""
_MEMBERS_SEARCHED_MAX = 64


def unframed(value: bytes, bytes_max: int) -> tuple[bytes, str | None]:
    """Return the JSON text behind a schema registry's bytes, or the value and why it cannot be read.

    A value that begins with no registry's magic byte is returned as it is. Compressed text is inflated up to
    `bytes_max` bytes.
    """
    magic = value[:1]
    if magic == b"\x00":
        for length in _REGISTRY_PREFIX_BYTES:
            if _begins_json(value, length):
                return value[length:], None
        if _by_magic(value) is None:
            return value, (
                "its value begins with the zero byte of a schema registry's serializer and goes on with something that "
                "is not JSON, as Avro and Protobuf serializers write; publish with a JSON or JSON Schema serializer"
            )
    elif magic == b"\x01" and _begins_json(value, _GUID_PREFIX_BYTES):
        return value[_GUID_PREFIX_BYTES:], None
    elif magic == b"\x03" and len(value) > _GLUE_HEADER_BYTES and value[1] in (0, 5):
        body = value[_GLUE_HEADER_BYTES:]
        return _inflated(body, bytes_max) if value[1] == 5 else (body, None)
    return value, None


def name_of(value: bytes) -> str | None:
    """Return what bytes that are not JSON look like, with the remedy, as the end of a sentence; None for no idea."""
    known = _known(value)
    if known is None:
        return None
    name, remedy = known
    return f"it looks like {name}: {remedy}"


def wrapper_of(members: dict[str, Any]) -> str | None:
    """Return a sentence on where a request stands inside an object that is none; None where none is seen.

    Frameworks put a message into an envelope of their own (MassTransit's `message`, EventBridge's `detail`, SNS's
    `Message`). Which of its members count is the framework's secret, so none is read, and the member is named.
    """
    if "op" in members and "source" in members and ("after" in members or "before" in members):
        return (
            "it looks like a change event of Debezium: add the transform ExtractNewRecordState, or use the outbox "
            "event router with table.expand.json.payload=true"
        )
    for _, (name, part) in zip(range(_MEMBERS_SEARCHED_MAX), members.items(), strict=False):
        inside = isinstance(part, dict) and ("request_id" in part or "prompt" in part)
        if inside or (isinstance(part, str) and part[:1] == "{" and '"request_id"' in part):
            return (
                f"a request seems to stand in its member '{bounded(name, 60)}', so the producer wraps what it sends in "
                "an envelope that is not read: publish the request itself (a raw or plain JSON serializer)"
            )
    return None


def _known(value: bytes) -> tuple[str, str] | None:
    return _by_magic(value) or _by_range(value) or _by_text(value[:_LOOKED_AT_BYTES_MAX])


def _by_magic(value: bytes) -> tuple[str, str] | None:
    return next(((name, remedy) for magic, name, remedy in _MAGIC if value.startswith(magic)), None)


def _by_range(value: bytes) -> tuple[str, str] | None:
    """Tell formats by a range of first bytes, none of which begins UTF-8."""
    first = value[0] if value else 0
    if first == 0x80 and value[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle", "publish json.dumps(...) of it"
    if 0x81 <= first <= 0x8F or first in (0xDE, 0xDF):
        return "MessagePack", _JSON_SERIALIZER
    if 0xA1 <= first <= 0xBF:
        return "CBOR", _JSON_SERIALIZER
    if len(value) >= 5 and int.from_bytes(value[:4], "little") == len(value) and value[-1] == 0:
        return "BSON", _JSON_SERIALIZER
    return None


def _by_text(text: bytes) -> tuple[str, str] | None:
    if any(byte < 0x20 and byte not in b"\t\n\r" for byte in text):
        return "a binary format such as Avro or Protobuf", f"{_JSON_SERIALIZER}; {_CONNECT}"
    if text.lstrip()[:1] == b"{" and not _is_utf8(text):
        return "text in another encoding than UTF-8, such as Latin-1 or Windows-1252", _UTF8
    return next(((name, remedy) for pattern, name, remedy in _TEXTS if pattern.match(text)), None)


def _is_utf8(text: bytes) -> bool:
    """Return False for bytes that are not UTF-8. A character that the end cuts in two is none of them."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return False
    return True


def _begins_json(value: bytes, at: int) -> bool:
    return value[at : at + 16].lstrip()[:1] in (b"{", b"[", b'"')


def _inflated(body: bytes, bytes_max: int) -> tuple[bytes, str | None]:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(body, bytes_max + 1)
    except zlib.error:
        return body, "its value has the header of AWS Glue with zlib compression, but what follows is not zlib"
    if len(text) > bytes_max:
        return body, f"its value, as AWS Glue compressed it, has more than {bytes_max} bytes"
    if not inflater.eof:
        return body, "its value, as AWS Glue compressed it, is cut off"
    return text, None
