"""Holds what is said of a topic's replicas against the number of brokers."""

from __future__ import annotations

import pytest

from darkroom.producer.kafka.topic_checks import SeenCluster, SeenTopic, differences
from darkroom.schemas.names import Topic
from darkroom.schemas.settings import load_settings


@pytest.mark.parametrize(
    ("replicas", "brokers", "factor", "says"),
    [
        (1, 1, -1, None),
        (1, 2, -1, "has one replica, and the cluster 2 brokers"),
        (1, 3, -1, "has one replica, and the cluster 3 brokers"),
        (2, 2, -1, None),
        (2, 3, -1, "has 2 replicas, and the cluster 3 brokers"),
        (2, 5, 2, "has 2 replicas, and the cluster 5 brokers"),
        (3, 3, -1, None),
        (3, 9, 3, None),
        (2, 3, 3, "has 2 replicas, fewer than DARKROOM_TOPICS__REPLICATION_FACTOR (3)"),
    ],
)
def test_few_replicas_are_told_of(replicas: int, brokers: int, factor: int, says: str | None) -> None:
    settings = load_settings(overrides={"topics.replication_factor": factor}, environ={})
    seen = SeenCluster(brokers, {Topic.REQUESTS: SeenTopic(12, replicas, {})})
    told = [one for one in differences(settings, seen) if "not told" not in one.says and "replica" in one.says]
    assert [one.is_advice for one in told] == [True] * len(told)
    assert ([one.says for one in told] == []) if says is None else (says in told[0].says)
