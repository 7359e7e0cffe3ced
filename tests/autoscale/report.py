"""The run as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.autoscale.case import Case
from tests.autoscale.verdict import Figures


def table(figures: Figures | None, cases: Sequence[Case], *, good: bool) -> str:
    """Times, what was lost or repeated, and the findings."""
    lines = [] if figures is None else [*_times(figures), "", *_outcomes(figures)]
    if cases:
        lines += ["", "known faults of the autoscalers, and what the chart makes of them"]
        for case in cases:
            how, verdict = "live " if case.live else "guard", "ok " if case.holds else "BAD"
            lines.append(f"  {case.number}  {how}  {verdict}  {case.finding}")
            lines.append(f"                 {case.seen}")
    return "\n".join([*lines, "", "GOOD" if good else "BAD"])


def in_words(error: BaseException) -> str:
    """What ended a run, a line for each error that it was: without the places in our code, which say nothing of it."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(dict.fromkeys(in_words(one) for one in error.exceptions))
    return f"Error: {type(error).__name__}: {error}"


def _times(f: Figures) -> list[str]:
    rows = [
        ("lag seen", f.lag_seen_s, "KEDA says that there is work"),
        ("first replica", f.first_worker_s, "its process runs"),
        ("first ready", f.first_ready_s, ""),
        ("first picture", f.first_picture_s, ""),
        (f"{f.workers_max} replicas", f.all_workers_s, "all ready"),
        ("burst done", f.burst_done_s, ""),
        ("first scale-in", f.scale_in_s, "SIGTERM"),
        ("last request", f.last_request_s, ""),
        ("lag gone", f.last_request_s + f.lag_gone_after_last_s, f"{f.lag_gone_after_last_s:.1f} s after the last"),
        (
            "zero",
            f.last_request_s + f.lag_gone_after_last_s + f.zero_after_lag_gone_s,
            f"{f.zero_after_lag_gone_s:.1f} s later, cooldown included",
        ),
    ]
    lines = [f"{f.requests} requests on {f.partitions} partitions, at most {f.lag_max} waiting; seconds from the first"]
    return [*lines, *(f"  {name:<15}{seconds:7.1f} s  {note}".rstrip() for name, seconds, note in rows)]


def _outcomes(f: Figures) -> list[str]:
    audit = f.audit
    lines = [
        f"  {f.workers_started} workers were started, {f.stopped_at_work} stopped while they had work: they published "
        f"{f.published_while_draining} pictures after SIGTERM; the longest drain took {f.longest_drain_s:.1f} s",
        f"  {f.rendered_twice} requests were rendered a second time after a partition had moved",
        f"  audit: {audit.get('records')} records, {audit.get('succeeded')} succeeded, "
        f"{len(_list(audit, 'missing'))} missing, {len(_list(audit, 'duplicated'))} duplicated, "
        f"{len(_list(audit, 'objects_missing'))} pictures missing, {audit.get('replayed')} replayed",
    ]
    return lines + [f"  PROBLEM: {problem}" for problem in f.problems]


def _list(audit: dict[str, object], name: str) -> list[object]:
    found = audit.get(name)
    return found if isinstance(found, list) else []
