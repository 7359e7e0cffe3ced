"""Proves that a worker loses nothing and stays ready while its keys for the store end and are renewed under load."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from darkroom.consumer.audit.audit import audit
from darkroom.inference.engine import LaneEngine
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion, Status
from tests.cluster.test_refusals import request
from tests.integration.by_hand import CountingDevice, until_no_lag
from tests.integration.fleet import until
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on
from tests.producer.token_store import ROLE, TokenStore, instance_metadata

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

LIFE_S = 9
RENEWALS = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenStore]:
    found = TokenStore(tmp_path_factory.mktemp("token-store"), life=f"{LIFE_S}s")
    with found.running():
        yield found


async def test_a_worker_loses_nothing_while_its_keys_end_and_their_service_comes_and_goes(
    stack: Stack, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = without_store(stack) | {"DARKROOM_S3__ENDPOINT": store.url, "DARKROOM_S3__CREDENTIALS": "aws"}
    settings = deployment_on(environment)(topics__requests_partitions=2)
    with instance_metadata(store) as service:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        await ensure_topics(settings)
        engine = LaneEngine(CountingDevice(), rows_max=8)
        sent: set[tuple[int, int]] = set()
        async with running_worker(settings, engine) as worker, Producer(settings) as producer:
            await until(lambda: worker._ready().well, 30, "readiness")
            unready: list[str] = []
            begun = service.answers
            while service.answers < begun + RENEWALS:
                service.is_away = service.refusals < service.answers  # one renewal fails before each that does not
                sent.add(await producer.put(request()))
                unready += worker._ready().reasons
                await asyncio.sleep(0.02)
            service.is_away = False
            assert unready == []
            answers = await producer.answers(sent)
            await until_no_lag(settings)
        found = [one for several in answers.values() for one in several]
        assert len(found) == len(sent)
        assert all(isinstance(one, Completion) and one.status is Status.SUCCEEDED for one in found)
        async with MinioObjects(settings.s3) as objects:
            report = await audit(settings, objects)
    assert (report.missing, report.duplicated) == ([], [])
    assert (report.objects_missing, report.objects_corrupt) == ([], [])


async def test_readiness_says_why_there_are_no_keys_and_work_goes_on_when_there_are(
    stack: Stack, store: TokenStore, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(store.issuer.token())
    environment = without_store(stack) | {
        "DARKROOM_S3__ENDPOINT": store.url,
        "DARKROOM_S3__CREDENTIALS": "web_identity",
        "DARKROOM_S3__WEB_IDENTITY_TOKEN_FILE": str(token),
        "DARKROOM_S3__ROLE_ARN": ROLE,
    }
    settings = deployment_on(environment)(topics__requests_partitions=2)
    await ensure_topics(settings)
    engine = LaneEngine(CountingDevice(), rows_max=8)
    async with running_worker(settings, engine) as worker, Producer(settings) as producer:
        token.write_text(store.issuer.token(iss="https://elsewhere"))
        await asyncio.sleep(LIFE_S)  # until the held keys have ended
        sent = {await producer.put(request()) for _ in range(3)}
        await until(
            lambda: any("issuer: https://elsewhere" in one for one in worker._ready().reasons), 60, "the reason"
        )
        token.write_text(store.issuer.token())
        answers = await producer.answers(sent)
        await until(lambda: worker._ready().well, 60, "readiness")
    assert [one.status for several in answers.values() for one in several] == [Status.SUCCEEDED] * 3


def without_store(stack: Stack) -> dict[str, str]:
    return {name: value for name, value in stack.environment.items() if not name.startswith("DARKROOM_S3__")}
