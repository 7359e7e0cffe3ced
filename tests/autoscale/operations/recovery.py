"""The operations of a release that lost something: the cluster, the group's offsets, Kafka, the bucket."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from aiokafka.protocol.admin import DeleteGroupsRequest

from darkroom.producer.client.client import Client
from darkroom.producer.kafka.connection import administering
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import Topic
from tests.autoscale.case import wait_until
from tests.autoscale.operations.site import Site, expect
from tests.autoscale.operations.upkeep import ANSWER_S_MAX, ask, run
from tests.autoscale.verdict import rendered

CLUSTER, OFFSETS, ANYTHING, AUDIT = range(4)
"""The blocks of the section, in their order."""
NEW: Final = 12
"""Requests that wait while the cluster is away."""
GONE_S_MAX: Final = 180.0


async def back_up(site: Site, title: str) -> str:
    """The files hold what their names say."""
    await run(site, title, 0)
    folder = site.desk.folder
    values = yaml.safe_load((folder / "darkroom-values.yaml").read_text())
    expect(values["settings"]["topics"]["prefix"] == site.settings.topics.prefix, f"the values: {values['settings']}")
    kept = {
        one["metadata"]["name"]: one for one in yaml.safe_load((folder / "darkroom-secrets.yaml").read_text())["items"]
    }
    expect(kept.keys() == {"darkroom-s3", "darkroom-keys"}, f"the Secrets: {sorted(kept)}")
    secret = base64.b64decode(kept["darkroom-s3"]["data"]["secret-key"]).decode()
    expect(secret == site.store_key.secret, "the Secret has another key than the store")
    expect("unspeakable" in _data(folder / "darkroom-policy.yaml")["policy.toml"], "the policy is not there")
    settings = _data(folder / "darkroom-settings.yaml")
    expect(settings["DARKROOM_KAFKA__GROUP_ID"] == site.settings.kafka.group_id, f"the settings: {settings}")
    return f"values, {len(kept)} Secrets, the policy and {len(settings)} settings"


def _data(file: Path) -> dict[str, str]:
    data: dict[str, str] = yaml.safe_load(file.read_text())["data"]
    return data


async def recover(site: Site, title: str) -> str:
    """One disaster after another, and the audit."""
    done, cluster = await _cluster(site, title)
    seen = [cluster, await _offsets(site, title, done), await _kafka(site, title)]
    said = await run(site, title, AUDIT)
    seen += [f"the audit in a gateway's pod: {_counts(said)}", await _bucket(site, title)]
    return "; ".join(seen)


async def _cluster(site: Site, title: str) -> tuple[dict[str, Completion], str]:
    """The namespace is deleted with all that is in it, and requests come while nothing is there."""
    await asyncio.to_thread(site.desk.run, "kubectl delete namespace $NS --timeout=170s")
    await asyncio.to_thread(wait_until, "every pod to be gone", lambda: not site.pods("worker"), GONE_S_MAX)
    names = [f"meanwhile-{number}" for number in range(NEW)]
    async with Client(site.settings) as client:
        await client.send([GenerationRequest(request_id=name, prompt="a figure", steps=4) for name in names])
        await run(site, title, CLUSTER)
        await asyncio.to_thread(site.await_fleet)
        found = await client.wait(names, ANSWER_S_MAX)
    done = [one for one in found.values() if one.status.value == "succeeded" and not one.replayed]
    expect(len(done) == NEW, f"{len(done)} of {NEW} succeeded, {len(found)} were answered")
    report = await site.audited()
    expect(report.is_clean, f"the audit found: {report}")
    return found, f"installed anew from the backup: {NEW} requests that came meanwhile succeeded, the audit is clean"


async def _offsets(site: Site, title: str, done: Mapping[str, Completion]) -> str:
    """The fleet is put to sleep and its group deleted; then what the README says, and the fleet wakes."""
    before = await site.audited()
    counted = rendered(site.history())
    site.write_values({"autoscaling": {"minReplicas": 0, "keda": {"pausedReplicas": 0}}})
    await asyncio.to_thread(site.desk.run, "helm upgrade $R helm/darkroom -n $NS -f my-values.yaml")
    await asyncio.to_thread(wait_until, "no worker", lambda: not site.pods("worker"), GONE_S_MAX)
    await _forget_group(site)
    await run(site, title, OFFSETS)
    site.write_values({})
    async with Client(site.settings) as client:
        await asyncio.to_thread(site.desk.run, "helm upgrade $R helm/darkroom -n $NS -f my-values.yaml")
        await asyncio.to_thread(site.await_fleet)
        repeated = await client.wait(list(done), ANSWER_S_MAX)
    expect(repeated == done, f"the completions that came again: {repeated}")
    await ask(site, "after-the-offsets")
    async with asyncio.timeout(ANSWER_S_MAX):
        while (report := await site.audited()).pending or len(report.duplicated) < before.records:
            await asyncio.sleep(1)
    expect(not (report.missing or report.objects_missing or report.objects_corrupt), f"the audit found: {report}")
    again = rendered(site.history()) - counted
    again.pop("after-the-offsets", None)
    expect(not again, f"rendered a second time: {Counter(again).most_common(3)}")
    expect(report.records == before.records + 1, f"{before.records} records became {report.records}")
    return (
        f"group deleted: {before.records} records were read and answered again, word for word, none was rendered again"
    )


async def _forget_group(site: Site) -> None:
    """With all that it ever committed, as a broker does it after `offsets.retention.minutes`."""
    group = site.settings.kafka.group_id
    async with administering(site.settings.kafka, "deleting the group") as admin:
        # aiokafka has the request and no call for it.
        answer = await admin._send_request(DeleteGroupsRequest([group]), await admin.find_coordinator(group))
    codes = [one["error_code"] for one in answer.to_object()["results"]]
    expect(codes == [0], f"the broker did not delete the group: {codes}")


async def _kafka(site: Site, title: str) -> str:
    """All topics are deleted under a running fleet. The store has every outcome."""
    counted = rendered(site.history())
    topics = site.settings.topics
    async with administering(site.settings.kafka, "deleting topics") as admin:
        await admin.delete_topics([topics.name(topic) for topic in Topic])
        async with asyncio.timeout(30):
            while {topics.name(topic) for topic in Topic} & set(await admin.list_topics()):
                await asyncio.sleep(0.2)
    await run(site, title, ANYTHING)
    await asyncio.to_thread(site.await_fleet)
    again = await ask(site, "after-the-offsets")
    expect(again.replayed, f"a request that was done came back as {again}")
    new = await ask(site, "after-kafka")
    expect(new.status.value == "succeeded", f"a new request came back as {new}")
    twice = rendered(site.history()) - counted
    expect(set(twice) <= {"after-kafka"}, f"rendered a second time: {twice}")
    return "topics made anew under running workers: a request sent again got its old outcome, a new one succeeded"


async def _bucket(site: Site, title: str) -> str:
    await asyncio.to_thread(site.desk.run, f"mc rb --force store/{site.settings.s3.bucket}")
    await run(site, title, ANYTHING)
    new = await ask(site, "after-the-bucket")
    expect(new.status.value == "succeeded", f"a new request came back as {new}")
    report = await site.audited()
    expect(bool(report.objects_missing), "the audit misses no picture although the bucket was removed")
    try:
        await run(site, title, AUDIT)
    except Exception as error:
        expect("pictures are not in the bucket" in str(error), f"the audit said: {error}")
    return f"bucket made anew: a new request succeeded, the audit names {len(report.objects_missing)} lost pictures"


def _counts(said: str) -> str:
    report = yaml.safe_load(next(line for line in said.splitlines() if line.startswith("{")))
    return f"{report['records']} records, {report['succeeded']} succeeded, {report['replayed']} replayed"
