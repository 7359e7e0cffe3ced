"""Proves the table of rights on a real broker: with all of a role's rights it works, and a missing one is named.

This is a part of the proof, one right of each kind a role; `python -m tests.cluster.rights_proof` removes each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from darkroom.schemas.rights import Resource, Role
from tests.cluster.brokers import Brokers
from tests.cluster.rights_proof import Proof

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def proof(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proof]:
    folder = tmp_path_factory.mktemp("rights")
    with Brokers(folder / "brokers", users_log_in=True) as brokers, Proof(brokers, stack.environment, folder) as made:
        yield made


@pytest.mark.parametrize(
    ("role", "left_out"),
    [
        (Role.WORKER, ("Write", Resource.TOPIC, "generation.progress")),
        (Role.GATEWAY, ("Write", Resource.TOPIC, "generation.cancellations")),
        (Role.GATEWAY, ("Read", Resource.TOPIC, "generation.requests")),
        (Role.HOOKS, ("Read", Resource.GROUP, "darkroom-hooks")),
        (Role.SEND, ("Write", Resource.TOPIC, "generation.requests")),
        (Role.WATCH, ("Read", Resource.TOPIC, "generation.completions")),
        (Role.INIT, ("Write", Resource.TRANSACTIONAL_ID, "idle-generation.requests-")),
        (Role.DOCTOR, ("DescribeConfigs", Resource.TOPIC, "generation.dead-letters")),
    ],
)
def test_a_role_works_with_its_rights_and_names_the_one_that_is_missing(
    proof: Proof, role: Role, left_out: tuple[str, Resource, str]
) -> None:
    (right,) = [one for one in proof.rights_of(role) if one[:3] == left_out]
    assert proof.tried(role, without=None) is None
    assert proof.tried(role, without=right) is None


def test_a_right_is_told_as_missing_only_where_it_is(proof: Proof) -> None:
    for role in Role:
        rights = proof.rights_of(role)
        assert proof.missing(role, granted=rights) == ()
        assert proof.missing(role, granted=()) == rights


def test_doctor_without_any_right_is_not_content(proof: Proof) -> None:
    ended = proof.run_with(("doctor", "--role", "cancel"), granted=())
    assert ended.code == 1
    assert all(one.operation in ended.said and one.name in ended.said for one in proof.rights_of(Role.CANCEL)), (
        ended.said
    )
