"""One render per request: which record of a request leads, which follow it, and which requests were cancelled."""

from __future__ import annotations

from collections import OrderedDict

from darkroom.consumer.core.jobs import Identity
from darkroom.consumer.core.partition import Job


class Identities:
    """Two records of one request in flight at once are coalesced: the first leads, the others wait for its outcome.

    Invariant `one_leader_per_identity`: at most one job of an identity is between LOOKING and SETTLING.
    """

    def __init__(self, cancellations_max: int) -> None:
        self._leaders: dict[Identity, Job] = {}
        self._followers: dict[Identity, list[Job]] = {}
        self._cancelled: OrderedDict[Identity, None] = OrderedDict()
        self._cancellations_max = cancellations_max

    def lead_or_follow(self, job: Job) -> bool:
        """True where the job leads (it is the only one, or led already); False where it follows now."""
        leader = self._leaders.setdefault(job.identity, job)
        if leader is job:
            return True
        self._followers.setdefault(job.identity, []).append(job)
        return False

    def leader(self, identity: Identity) -> Job | None:
        """The job that is being worked on for a request."""
        return self._leaders.get(identity)

    def stop_following(self, job: Job) -> None:
        """A follower is over."""
        followers = self._followers.get(job.identity, [])
        followers.remove(job)
        if not followers:
            self._followers.pop(job.identity, None)

    def stop_leading(self, job: Job) -> list[Job]:
        """A job is decided or over. Returns its followers where it led: they are nobody's now."""
        if job.facts.identity is None or self._leaders.get(job.facts.identity) is not job:
            return []
        del self._leaders[job.facts.identity]
        return self._followers.pop(job.facts.identity, [])

    def cancel(self, identity: Identity) -> None:
        """Remember a cancellation, which may come before its request. The oldest are forgotten first."""
        self._cancelled[identity] = None
        self._cancelled.move_to_end(identity)
        while len(self._cancelled) > self._cancellations_max:
            self._cancelled.popitem(last=False)

    def is_cancelled(self, identity: Identity) -> bool:
        """Return whether the requester took the request back."""
        return identity in self._cancelled
