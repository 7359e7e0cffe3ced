#!/usr/bin/env bash
# The guess: a Kafka client reads a record's attributes as the one byte that they are (KIP-98: "Attributes => int8"), or
# at least raises where it cannot read a record.
#
# What happens instead: aiokafka reads them as a varint. No bit of them has a meaning yet, and Apache Kafka 4 takes a
# record in which some are set. A byte of 0x80 or more then swallows the byte behind it, every field is read from its
# neighbour's place, and where the lengths happen to add up no error is raised: the reader gets another key, and another
# offset, which the consumer takes for one that was seen already, or for a later one. The record is lost in silence.
#
# Why it matters here: a consumer that promises one outcome a record cannot rest on "the library raises or is right".
# Darkroom holds each offset against the one before, and reads such a batch itself.
#
# Source: aiokafka 0.14.0, record/default_records.py ("attrs can be skipped for now") and its compiled twin; Apache
# Kafka 4, DefaultRecord.java, readFrom: `byte attributes = buffer.get()`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiokafka==0.14.0
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata
import struct

from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c


def batch(attributes: int) -> bytes:
    # length 8, attributes, time delta 0, offset delta 0, key "k", value "v", no headers
    record = bytes([16, attributes, 0, 0, 2]) + b"k" + bytes([2]) + b"v" + bytes([0])
    summed = struct.pack(">hiqqqhii", 0, 0, 1000, 1000, -1, -1, -1, 1) + record
    rest = struct.pack(">ibI", -1, 2, calc_crc32c(summed)) + summed
    return struct.pack(">qi", 0, len(rest)) + rest


def read(attributes: int):
    [record] = MemoryRecords(batch(attributes)).next_batch()
    return record.offset, record.key, record.value


print("aiokafka", importlib.metadata.version("aiokafka"))
usual, strange = read(0), read(0xFF)
print("attributes 0x00: offset, key, value =", usual)
print("attributes 0xFF: offset, key, value =", strange)
assert usual == (0, b"k", b"v")
assert strange != usual, "it is read as one byte now"
assert strange[:2] == (1, None)
PY
echo "as described: a record at offset 0 with the key k is given as one at offset 1 without a key"
