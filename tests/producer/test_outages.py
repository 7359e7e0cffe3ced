"""Proves that an outage is a line when it begins, one a minute while it lasts, and one when it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.producer import outages
from darkroom.producer.outages import QUIET_S, REPEAT_S, RETRY_S_MAX, SETTLE_S, Line, Outage


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """An outage that is looked at every second of a virtual clock, and what it said."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lines: list[Line] = []
        self.outage = Outage("Kafka", say=self._say, clock=self.clock)

    def _say(self, line: Line) -> None:
        if line.level > logging.DEBUG:
            self.lines.append(line)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock.now += 1
            self.outage.tick()

    @property
    def kinds(self) -> list[str]:
        return [line.fields["outage"] for line in self.lines]


def test_a_flood_of_three_minutes_is_a_line_at_once_two_more_and_one_at_its_end() -> None:
    watched = Watched()
    for _ in range(150):
        for number in range(82):
            watched.outage.failed("poll", f"refused {number}")
        watched.wait(1)
    assert watched.kinds == ["began", "lasts", "lasts"]
    watched.outage.answered("poll")
    watched.wait(SETTLE_S)
    assert watched.kinds == ["began", "lasts", "lasts", "ended"]
    assert watched.lines[-1].fields["lasted_s"] == 149
    assert watched.lines[-1].fields["failures"] == 150 * 82
    assert not watched.outage.is_on


def test_the_first_line_comes_at_once_and_says_where_and_why() -> None:
    watched = Watched()
    watched.outage.failed("publish", "it did not\nanswer")
    [line] = watched.lines
    assert line.fields == {"outage": "began", "source": "publish", "error": "it did not answer"}
    assert line.level == logging.WARNING


def test_it_ends_only_when_every_source_is_well() -> None:
    watched = Watched()
    watched.outage.failed("poll", "no")
    watched.outage.failed("publish", "no")
    watched.outage.answered("poll")
    watched.wait(30)
    assert watched.kinds == ["began"]
    watched.outage.answered("publish")
    assert watched.kinds == ["began", "ended"]


def test_a_server_that_answers_and_refuses_in_turns_is_one_outage() -> None:
    watched = Watched()
    for _ in range(40):
        watched.outage.failed("store", "no")
        watched.outage.answered("store")
        watched.wait(2)
    assert watched.kinds == ["began", "lasts"]


def test_a_library_that_logs_no_success_is_well_when_it_is_quiet() -> None:
    watched = Watched()
    watched.outage.failed("aiokafka", "no", answers=False)
    watched.wait(QUIET_S - 1)
    assert watched.kinds == ["began"]
    watched.wait(2)
    assert watched.kinds == ["began", "ended"]


def test_a_source_that_is_never_heard_of_again_keeps_no_outage_for_ever() -> None:
    watched = Watched()
    watched.outage.failed("publish", "the partition went to another worker after this")
    watched.wait(RETRY_S_MAX + 1)
    assert watched.kinds == ["began", "lasts", "ended"]


def test_without_anybody_who_looks_a_later_outage_is_one_of_its_own() -> None:
    watched = Watched()
    watched.outage.failed("growth", "no")
    watched.clock.now += 3600
    watched.outage.failed("growth", "no")
    assert watched.kinds == ["began", "ended", "began"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("failed"), st.sampled_from("abc")),
            st.tuples(st.just("answered"), st.sampled_from("abc")),
            st.tuples(st.just("wait"), st.integers(1, 40)),
        ),
        max_size=80,
    )
)
def test_a_flood_is_a_line_and_what_began_ends(happened: list[tuple[str, str | int]]) -> None:
    watched = Watched()
    for what, which in happened:
        if what == "wait":
            watched.wait(int(which))
        else:
            getattr(watched.outage, what)(str(which)) if what == "answered" else watched.outage.failed(str(which), "no")
    elapsed_s = watched.clock.now - 1000
    watched.wait(RETRY_S_MAX + REPEAT_S)
    kinds = [kind for kind in watched.kinds if kind != "lasts"]
    assert kinds == ["began", "ended"] * (len(kinds) // 2)
    assert len(watched.lines) <= 2 * (elapsed_s / SETTLE_S + 1) + (elapsed_s + RETRY_S_MAX) / REPEAT_S + 1


@pytest.fixture
def said_by_the_library() -> Iterator[None]:
    outages.say_by(None)
    yield
    outages.say_by(None)


@pytest.mark.usefixtures("said_by_the_library")
def test_a_program_that_configured_nothing_gets_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="darkroom.producer.outages")
    clock = Clock()
    outage = Outage("Kafka", clock=clock)
    outage.failed("growth", "refused")
    outage.answered("growth")
    clock.now += SETTLE_S
    outage.tick()
    assert caplog.messages == [
        "Kafka does not answer; it is tried again until it does (refused).",
        "Kafka answers again after 0 s.",
    ]
