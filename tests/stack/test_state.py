"""The state file is replaced as a whole, is private, and is not believed when it is torn or another release's."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from darkroom.consumer.stack import state
from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.process import ProcessId
from darkroom.consumer.stack.state import ServerRecord, StackState, StateUnreadable


def a_state() -> StackState:
    record = ServerRecord(ports={"kafka": 20_000}, process=ProcessId(4_000_000, 12.34), version="4.2.2")
    return state.new_state("pictures").with_record("kafka", record).with_addresses(kafka="h:1", s3="h:2")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    state.write(tmp_path, a := a_state(), up=True)
    assert state.read(tmp_path) == a
    assert state.read(tmp_path / "nowhere") is None


def test_others_read_the_environment_and_only_the_owner_may(tmp_path: Path) -> None:
    state.write(tmp_path, a_state(), up=True)
    path = tmp_path / "stack.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    environment = json.loads(path.read_text())["environment"]
    assert environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"] == "h:1"
    assert environment["DARKROOM_S3__ENDPOINT"] == "http://h:2"
    assert environment["DARKROOM_S3__BUCKET"] == "pictures"
    assert len(environment["DARKROOM_S3__SECRET_KEY"]) >= 32


def test_keys_differ_from_folder_to_folder() -> None:
    assert state.new_state("b").credentials.secret_key != state.new_state("b").credentials.secret_key


def test_a_stack_that_is_down_has_no_stack_json_but_keeps_ports_and_keys(tmp_path: Path) -> None:
    state.write(tmp_path, a := a_state(), up=True)
    state.write(tmp_path, a, up=False)
    assert not (tmp_path / "stack.json").exists()
    assert state.read(tmp_path) == a
    state.write(tmp_path, a, up=True)
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"format": 1, "environ', "[]", '{"format": 1}', '{"format": 1, "environment": {}, "processes": {}}'],
)
def test_a_torn_file_is_unreadable_and_can_be_set_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    with pytest.raises(StateUnreadable):
        state.read(tmp_path)
    assert state.set_aside(tmp_path).read_text() == content
    assert state.read(tmp_path) is None


def test_another_release_s_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text('{"format": 2}')
    with pytest.raises(StackError, match=r"format 2.*another --dir"):
        state.read(tmp_path)
