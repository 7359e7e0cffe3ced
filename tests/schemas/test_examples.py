"""What the examples for other languages send is a request: by the published schema, and as the worker reads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from darkroom.schemas import publish
from darkroom.schemas.wire.codec import decode_request

EXAMPLES = Path(__file__).parents[2] / "examples"
PUBLISHED = Path(publish.__file__).parent / "published" / "request.json"
ATTRIBUTES = {"ce_specversion", "ce_type", "ce_source", "ce_id", "ce_time", "content-type"}
ID, TIME = "5f0c1f0e-0d6f-4a0b-9a52-9c1d4f2b7a11", "2027-01-31T12:00:00Z"

Sent = tuple[str, str, dict[str, str]]
"""A record: key, value, headers."""


def sent_by_kcat(folder: Path) -> Sent:
    """The script is run, with a program in kcat's place that keeps what it is given."""
    stand_in = folder / "kcat"
    stand_in.write_text(
        f'#!/bin/sh\ncat > {folder}/input\nfor word; do printf "%s\\n" "$word"; done > {folder}/words\n'
    )
    stand_in.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", EXAMPLES / "publish.sh", "kafka:9092"], env={"PATH": path}, check=True, timeout=20)
    words = (folder / "words").read_text().splitlines()
    assert words[words.index("-t") + 1] == "generation.requests"
    delimiter = words[words.index("-K") + 1]
    [line] = (folder / "input").read_text().splitlines()
    key, _, value = line.partition(delimiter)
    headers = dict(words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "-H")
    return key, value, headers


def sent_by_java(folder: Path) -> Sent:
    source = (EXAMPLES / "Publish.java").read_text()
    [value] = re.findall(r'String request = """\n(.*?)"""', source, re.DOTALL)
    [key] = re.findall(r'String requestId = "(.*?)"', source)
    assert "new ProducerRecord<>(topic, requestId, request)" in source
    headers = {}
    for name, content in re.findall(r'\.add\("([\w-]+)", (.*?)\.getBytes\(UTF_8\)\)', source):
        spoken = {"UUID.randomUUID().toString()": ID, "Instant.now().toString()": TIME}
        headers[name] = spoken.get(content) or json.loads(content)
    return key, textwrap.dedent(value), headers


def sent_by_node(folder: Path) -> Sent:
    source = (EXAMPLES / "publish.mjs").read_text()
    [value] = re.findall(r"const request = (\{.*?\n\});", source, re.DOTALL)
    [told] = re.findall(r"const headers = (\{.*?\n\});", source, re.DOTALL)
    told = told.replace("randomUUID()", f'"{ID}"').replace("new Date().toISOString()", f'"{TIME}"')
    assert "messages: [{ key: request.request_id, value, headers }]" in source
    return json.loads(value)["request_id"], value, json.loads(told)


@pytest.mark.parametrize("sent", [sent_by_kcat, sent_by_java, sent_by_node])
def test_what_an_example_sends_is_a_request(sent: Callable[[Path], Sent], tmp_path: Path) -> None:
    key, value, headers = sent(tmp_path)
    jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text())).validate(json.loads(value))
    assert headers.keys() == ATTRIBUTES
    decoded = decode_request(value.encode(), [(name, text.encode()) for name, text in headers.items()], key.encode())
    # An odd attribute, an unknown field or a key that is not the request id would be a warning.
    assert decoded.warnings == ()
    assert decoded.event_id == headers["ce_id"]
    assert decoded.requested_at is not None


def test_the_examples_read_me_names_them_all() -> None:
    told = (EXAMPLES / "README.md").read_text()
    files = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert {name for name in files if name in told} == files
