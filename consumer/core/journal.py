"""Which records have entered the lanes, and what they are suspected of: how a poison request is known after a crash.

A decoder or a kernel that kills the process takes all memory of the culprit with it. So a record's offset is
committed into the journal before it is prepared. Whoever opens the partition next finds the journal, and with it
the *boot* (one run of one worker process) that wrote it. What became of that boot decides what its records are:

| fate of the boot | its records | a lonely run counts as a crash |
|---|---|---|
| ALIVE: a member of the group (a rebalance handed the partition over) | as any other | no |
| ENDED: it was told to end and said so (a drain, also one that ran out of time) | as any other | no |
| GONE: no member, and nobody knows more (frozen, evicted, not restarted yet) | suspects | not until it has CRASHED |
| CRASHED: its successor found that it ended without a word | suspects | yes |

Suspects run alone, from preparing to encoding. **Only a crash suffered alone counts**: a record that was alone in the
lanes of `attempts_max` boots that crashed is the culprit. All others lose nothing but time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

Boot = str
"""16 hexadecimal digits that name one run of one worker process."""
UNNAMED_BOOT: Boot = "0" * 16


class Fate(Enum):
    """Fate of a boot."""

    ALIVE = "alive"
    ENDED = "ended"
    GONE = "gone"
    CRASHED = "crashed"


SUSPICIOUS = (Fate.GONE, Fate.CRASHED)

TRIALS_MAX = 6
"""Lonely runs remembered for one record; the oldest is forgotten first. Above any sensible `attempts_max`."""
ENTRIES_MAX = 96
"""Records of one partition that may be in the lanes at once, so that the journal fits the commit's metadata."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in the lanes."""

    alone: bool = False
    """It is the only one there: a suspect under trial."""
    trials: tuple[Boot, ...] = ()
    """The boots in which it ran alone before, and that did not outlive it as far as is known."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Jobs that one boot had in its lanes as of a commit."""

    boot: Boot | None = None
    """Who wrote it; None where nobody did."""
    entries: Mapping[int, Entry] = field(default_factory=dict)
    """By offset: records in the lanes, and suspects whose turn has not come."""

    @property
    def boots(self) -> frozenset[Boot]:
        """Every boot whose fate matters to whoever opens the partition."""
        named = {boot for entry in self.entries.values() for boot in entry.trials}
        return frozenset(named | ({self.boot} if self.boot and self.entries else set()))


NO_JOURNAL = Journal()


def suspects_of(journal: Journal, fates: Mapping[Boot, Fate]) -> dict[int, Entry]:
    """The records that are to run alone, by offset, with the trials that may count against them.

    A boot whose fate is not told is GONE: running alone costs only time.
    """
    writer = fates.get(journal.boot, Fate.GONE) if journal.boot else Fate.GONE
    suspects = {}
    for offset, entry in journal.entries.items():
        trials = entry.trials
        if entry.alone and journal.boot and writer in SUSPICIOUS:
            trials = (*trials, journal.boot)
        trials = tuple(boot for boot in trials if fates.get(boot, Fate.GONE) in SUSPICIOUS)[-TRIALS_MAX:]
        if trials or writer in SUSPICIOUS:
            suspects[offset] = Entry(alone=False, trials=trials)
    return suspects


def lonely_crashes(entry: Entry, fates: Mapping[Boot, Fate]) -> int:
    """Count the lonely runs of a record that are known to have ended in a crash."""
    return sum(fates.get(boot) is Fate.CRASHED for boot in entry.trials)
