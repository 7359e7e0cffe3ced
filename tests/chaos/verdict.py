"""What a run proved: the harness's own book and the product's audit, held against what was sent. Pure but for print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from darkroom.consumer.audit.audit import AuditReport
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Status
from tests.chaos.traffic import CANCELLED, CONFLICTED, SUCCEEDED, Ending, Sent
from tests.chaos.watch import Book

_WORKER_CRASH: Final = Ending(Status.FAILED, ErrorCode.WORKER_CRASH)
SHOWN_MAX: Final = 20
_BAD = (
    "lost",
    "duplicated",
    "objects_missing",
    "objects_corrupt",
    "unfinished",
    "wrong_outcomes",
    "wrong_pictures",
    "unclean_ends",
)


@dataclass(slots=True)
class Verdict:
    """The figures of one run, as they are printed."""

    seed: int
    device: str
    seconds: float
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By kind: how many, and the seconds that recovering took: median and worst."""
    sent: dict[str, int] = field(default_factory=dict)
    """By sort, once each; doubles that a lost acknowledgement made are not among them."""
    records: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    rendered_twice: int = 0
    longest_stall_s: float = 0.0
    longest_wait_s: float = 0.0
    worker_ends: dict[str, int] = field(default_factory=dict)
    """How worker processes ended before the end, by exit code."""
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    objects_missing: list[str] = field(default_factory=list)
    objects_corrupt: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """Accepted records without an outcome when the time to finish was over."""
    wrong_outcomes: list[str] = field(default_factory=list)
    """Outcomes that are not what the request was to end as, or that differ among the records of one request."""
    pictures_compared: int = 0
    """Stored pictures held against a rendering of their request alone."""
    wrong_pictures: list[str] = field(default_factory=list)
    """Those that are not what their request alone gives."""
    unclean_ends: list[str] = field(default_factory=list)
    """Workers that did not drain cleanly although nothing was wrong any more."""

    @property
    def is_good(self) -> bool:
        """Whether each record had its one right outcome, with its pictures, and everything ended."""
        return not any(getattr(self, name) for name in _BAD)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {"good": self.is_good, **asdict(self)}

    def table(self) -> str:
        """For people."""
        lines = [f"seed {self.seed}, {self.device}, {self.seconds:.0f} s", "", "faults"]
        for kind, row in sorted(self.faults.items()):
            lines.append(
                f"  {row['count']:4}  {kind:<55} recovered in {_s(row['median_s'])}, worst {_s(row['worst_s'])}"
            )
        lines += ["", "requests (records on the topic, repetitions after lost acknowledgements included)"]
        lines += [f"  {self.records:4}  in all", *(f"  {count:4}  {sort}" for sort, count in sorted(self.sent.items()))]
        lines += ["", "outcomes", *(f"  {count:4}  {status}" for status, count in self.outcomes.items())]
        lines += ["", f"  {self.rendered_twice:4}  rendered twice"]
        lines += [f"  {self.pictures_compared:4}  pictures compared with their request rendered alone"]
        ends = ", ".join(f"{code}: {count}" for code, count in sorted(self.worker_ends.items()))
        lines += [f"  workers ended meanwhile, by exit code: {ends or 'none'}"]
        lines += [
            f"  longest stall {self.longest_stall_s:.1f} s, longest wait of a record {self.longest_wait_s:.1f} s",
            "",
        ]
        for name in _BAD:
            found: Sequence[str] = getattr(self, name)
            lines.append(f"  {len(found):4}  {name.replace('_', ' ')}")
            lines += [f"        {entry}" for entry in found[:SHOWN_MAX]]
        return "\n".join([*lines, "", "GOOD" if self.is_good else "BAD"])


def judge(verdict: Verdict, book: Book, sent: Sent, report: AuditReport) -> None:
    """Fill in what the book and the audit say."""
    verdict.records = report.records
    verdict.sent = {str(sort): count for sort, count in sent.by_sort.items()}
    names = ("succeeded", "failed", "expired", "cancelled", "dead_lettered", "replayed", "conflicts")
    verdict.outcomes = {name: getattr(report, name) for name in names}
    verdict.lost = list(report.missing)
    verdict.duplicated = sorted({*report.duplicated, *_duplicated(book)})
    verdict.objects_missing, verdict.objects_corrupt = report.objects_missing, report.objects_corrupt
    verdict.unfinished = [f"partition {spot[0]}, offset {spot[1]}" for spot in sorted(book.waiting)]
    if report.pending:
        verdict.unfinished.append(f"{report.pending} by the audit's count")
    verdict.wrong_outcomes = [*_unexpected(book, sent), *_disagreeing(book), *_misplaced(book, sent)]
    verdict.longest_stall_s, verdict.longest_wait_s = book.longest_stall_s, book.longest_wait_s


def recovered(counts: Mapping[Any, int], book: Book) -> dict[str, dict[str, Any]]:
    """The table of faults. A recovery of which nothing was seen is None, and the worst."""
    rows = {}
    for kind, count in counts.items():
        seconds = [one.seconds for one in book.recoveries if one.kind == kind]
        seen = sorted(one for one in seconds if one is not None)
        worst = None if len(seen) < len(seconds) or not seen else round(seen[-1], 1)
        rows[str(kind)] = {
            "count": count,
            "median_s": round(seen[len(seen) // 2], 1) if seen else None,
            "worst_s": worst,
        }
    return rows


def _duplicated(book: Book) -> list[str]:
    """Records with two completions, as our own reader saw them."""
    return [
        f"partition {spot[0]}, offset {spot[1]}, {found[0].request_id}: {len(found)} completions"
        for spot, found in book.completions.items()
        if len(found) > 1
    ]


def _unexpected(book: Book, sent: Sent) -> list[str]:
    wrong = []
    for spot, found in book.completions.items():
        for one in found:
            ending = sent.expected.get(one.request_id)
            fits = ending is not None and ending.fits(one)
            if one.request_id in sent.contested and ending is SUCCEEDED:
                fits = fits or CONFLICTED.fits(one)
            if one.request_id in sent.withdrawn:
                fits = fits or CANCELLED.fits(one)
            if not fits:
                code = one.error.code.value if one.error else ""
                wrong.append(f"{one.request_id} at {spot}: {one.status.value} {code}, not {ending}")
    return wrong


def _disagreeing(book: Book) -> list[str]:
    """Requests of which two records were told different things: one digest wins, and all its records say the same."""
    told: dict[tuple[str, str | None], set[tuple[str, ...]]] = {}
    winners: dict[str, set[str | None]] = {}
    for found in book.completions.values():
        for one in found:
            code = one.error.code.value if one.error else ""
            answer = (one.status.value, code, *(ref.key for ref in one.images))
            told.setdefault((one.request_id, one.request_digest), set()).add(answer)
            if one.images:
                winners.setdefault(one.request_id, set()).add(one.request_digest)
    wrong = [
        f"{request_id}: records of it were told different things: {sorted(answers)}"
        for (request_id, _), answers in told.items()
        if len(answers) > 1
    ]
    return wrong + [
        f"{request_id}: two different requests succeeded" for request_id, won in winners.items() if len(won) > 1
    ]


def _misplaced(book: Book, sent: Sent) -> list[str]:
    """Dead letters where none is due or none is there, and answers to what was never said."""
    wrong = [f"{spot}: unreadable, and not in the dead letters" for spot in sent.unreadable - book.dead_letters.keys()]
    wrong += [
        f"{spot}: in the dead letters {len(codes)} times" for spot, codes in book.dead_letters.items() if len(codes) > 1
    ]
    killers = {spot for spot, found in book.completions.items() if any(map(_WORKER_CRASH.fits, found))}
    wrong += [f"{spot}: killed its worker, and not in the dead letters" for spot in killers - book.dead_letters.keys()]
    answered = book.completions.keys() | book.dead_letters.keys()
    return wrong + [f"{spot}: of an aborted transaction, and answered" for spot in sent.aborted & answered]


def rendered_twice(rendered: Counter[str]) -> set[str]:
    """The requests that were rendered more than once."""
    return {request_id for request_id, times in rendered.items() if times > 1}


def _s(seconds: float | None) -> str:
    return "not seen" if seconds is None else f"{seconds:.1f} s"
