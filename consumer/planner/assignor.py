"""Which partitions a member of the group gets: even shares, and as few moves as those allow.

So does the sticky assignor that workers use (`darkroom.consumer.kafka`): everybody keeps what they have up to their
share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def shares(held: Mapping[str, frozenset[int]], members: Sequence[str], partitions: int) -> dict[str, frozenset[int]]:
    """Every partition has one of the members, in the order in which they joined. `held`: who had which before."""
    if not members:
        return {}
    least, rest = divmod(partitions, len(members))
    kept: dict[str, list[int]] = {}
    # The larger shares go to those who hold most, so that a partition moves only where it must.
    by_holding = sorted(members, key=lambda member: (-len(held.get(member, ())), members.index(member)))
    for place, member in enumerate(by_holding):
        kept[member] = sorted(held.get(member, ()))[: least + (place < rest)]
    free = sorted(set(range(partitions)) - {one for own in kept.values() for one in own}, reverse=True)
    for place, member in enumerate(by_holding):
        while len(kept[member]) < least + (place < rest):
            kept[member].append(free.pop())
    return {member: frozenset(kept[member]) for member in members}
