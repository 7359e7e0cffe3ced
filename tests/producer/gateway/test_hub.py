"""Proves that the hub holds no more than it may, and tells a job's outcome from what only looks like it."""

from __future__ import annotations

from darkroom.producer.gateway.jobs.hub import ACTIVE_S, RATE_WINDOW_S, Hub
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from tests.producer.examples import Picture
from tests.producer.gateway.house import failure_of, progress_of, success_of


class Clock:
    """Time as a test has it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def hub_of(clock: Clock, *, completions_max: int = 100, progress_max: int = 100, bytes_max: int = 10_000) -> Hub:
    return Hub(clock=clock, completions_max=completions_max, progress_max=progress_max, progress_bytes_max=bytes_max)


def request(number: int = 0) -> GenerationRequest:
    return GenerationRequest(request_id=f"job-{number}", prompt="a dancer")


def done(number: int = 0) -> Completion:
    return success_of(request(number), Picture())


IDENTITY = ("default", "job-0")


def test_a_conflict_of_another_record_is_not_the_job_s_end() -> None:
    hub = hub_of(Clock())
    hub.on_completion(failure_of(request(), ErrorCode.REQUEST_ID_CONFLICT))
    assert hub.completion(IDENTITY) is None


def test_a_repetition_changes_nothing_and_a_new_outcome_does() -> None:
    hub = hub_of(Clock())
    first = failure_of(request(), ErrorCode.RENDER_FAILED)
    hub.on_completion(first)
    hub.on_completion(first.model_copy(update={"replayed": True, "worker": "another"}))
    assert hub.completion(IDENTITY) is first
    second = done()
    hub.on_completion(second)  # its dead letter was replayed
    assert hub.completion(IDENTITY) is second


def test_completions_and_progress_are_bounded_by_number_and_bytes() -> None:
    hub = hub_of(Clock(), completions_max=3, progress_max=4, bytes_max=1000)
    for number in range(10):
        hub.on_completion(done(number))
    assert [hub.completion(("default", f"job-{number}")) is not None for number in range(10)] == [False] * 7 + [
        True
    ] * 3
    for number in range(20, 30):
        hub.on_progress(progress_of(request(number), 1))
    assert sum(hub.progress(("default", f"job-{number}")) is not None for number in range(20, 30)) == 4
    for number in range(30, 40):
        hub.on_progress(progress_of(request(number), 1, "A" * 400))
    assert sum(hub.progress(("default", f"job-{number}")) is not None for number in range(20, 40)) == 2


def test_the_last_preview_stays_until_there_is_another() -> None:
    hub = hub_of(Clock())
    hub.on_progress(progress_of(request(), 1, "/9j/4AAQ"))
    hub.on_progress(progress_of(request(), 2))
    latest = hub.progress(IDENTITY)
    assert latest is not None
    assert latest.steps_done == 2
    assert latest.preview is not None


def test_progress_that_comes_after_the_outcome_is_passed_over() -> None:
    hub = hub_of(Clock())
    hub.on_progress(progress_of(request(), 1))
    hub.on_completion(done())
    hub.on_progress(progress_of(request(), 22))
    assert hub.progress(IDENTITY) is None


def test_a_watch_sees_what_was_there_before_it_and_what_comes() -> None:
    hub = hub_of(Clock())
    hub.on_progress(progress_of(request(), 1))
    with hub.watching(IDENTITY) as watch:
        assert watch.progress is not None
        hub.on_completion(done())
        assert watch.completion is not None
        assert hub.watches == 1
    assert hub.watches == 0


def test_the_rate_is_of_the_last_minute_and_unknown_after_silence() -> None:
    clock = Clock()
    hub = hub_of(clock)
    assert hub.recent.per_second() is None
    for number in range(31):
        hub.on_completion(done(number))
        clock.now += 1
    assert abs((hub.recent.per_second() or 0) - 1.0) < 0.01
    assert hub.recent.batch_rows_mean() == 4.0
    clock.now += RATE_WINDOW_S + 1
    assert hub.recent.per_second() is None


def test_who_is_silent_for_long_is_not_active() -> None:
    clock = Clock()
    hub = hub_of(clock)
    hub.on_progress(progress_of(request(), 1))
    assert hub.active == 1
    clock.now += ACTIVE_S + 1
    assert hub.active == 0
