"""Proves that whoever floods a topic does not flood the log, and that the log says how many there were."""

from __future__ import annotations

from types import SimpleNamespace

from darkroom.producer.kafka.passed_over import TELL_S, PassedOver


def test_a_line_a_minute_says_how_many() -> None:
    now = 0.0
    passed = PassedOver(lambda: now)
    record = SimpleNamespace(topic="completions", partition=2, offset=7)
    first = passed.add(record, "its value is not JSON")
    assert first == "passed over completions-2-7, which is not an event of ours: its value is not JSON"
    assert [passed.add(record, "nor this") for _ in range(1000)] == [None] * 1000
    now = TELL_S
    assert (passed.add(record, "nor this") or "").endswith("; 1000 more since the last such line")
    assert passed.total == 1002
