"""The operations of a release that is well: a model, keys, a node, partitions, old pictures. Each says what it saw."""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import Final

from safetensors.torch import load_file, save_file

from darkroom.inference.tiny import ensure_tiny_model
from darkroom.producer.client.client import Client
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from tests.autoscale.case import wait_until
from tests.autoscale.operations.runbook import filled
from tests.autoscale.operations.site import NODES, WORKERS, Site, expect
from tests.autoscale.operations.traffic import Traffic
from tests.autoscale.watch import Lag

ANSWER_S_MAX: Final = 120.0
NOTICED_S_MAX: Final = 60.0
PARTITIONS: Final = 24
"""As the README's command grows to."""
RETENTION_DAYS: Final = 7
"""As the README's command sets."""


async def ask(site: Site, request_id: str, prompt: str = "a figure", steps: int = 4) -> Completion:
    """Send one request and wait for its completion. Raises `NotSo`."""
    async with Client(site.settings) as client:
        await client.send(GenerationRequest(request_id=request_id, prompt=prompt, steps=steps))
        found = await client.wait([request_id], ANSWER_S_MAX)
    expect(request_id in found, f"{request_id} was not answered within {ANSWER_S_MAX:.0f} s")
    return found[request_id]


async def run(site: Site, title: str, number: int, **values: str) -> str:
    """One block of an operation."""
    return await asyncio.to_thread(site.desk.run, site.blocks[title][number], values)


async def upgrade_a_model(site: Site, title: str) -> str:
    """Two real models in the store, real workers; requests go on all the while."""
    await asyncio.to_thread(_put_models, site)
    site.write_values({"settings": {"model": {"path": "s3://models/sdxl-v1"}, "simulated": {"step_ms": None}}})
    await asyncio.to_thread(site.upgrade)
    before = await ask(site, "before")
    traffic = Traffic("upgrade")
    async with traffic.flowing(site.settings, site.ready):
        await run(site, title, 0)
        after = await ask(site, "after")
        again = await ask(site, "before")
    expect(not traffic.problems, f"{traffic.problems[:5]}")
    expect(traffic.ready_min >= WORKERS, f"only {traffic.ready_min} workers were ready at a time")
    old, new = (one.model.revision if one.model else None for one in (before, after))
    expect(None not in (old, new) and old != new, f"the revision was {old} and is {new}")
    expect(again.replayed and again.images == before.images, f"the first request again: {again}")
    await run(site, title, 1)
    back = await ask(site, "back")
    expect(back.model is not None and back.model.revision == old, f"after the rollback: {back.model}")
    site.write_values({})
    await asyncio.to_thread(site.upgrade)
    return (
        f"{len(traffic.sent)} requests meanwhile, each answered once; never fewer than {traffic.ready_min} ready "
        "workers; new requests have the new revision, a repeated one its old picture; rolled back to the old revision"
    )


def _put_models(site: Site) -> None:
    """The tiny model, and one whose weights differ, which the block is to bring."""
    first, second = site.desk.folder / "sdxl-v1", site.desk.folder / "sdxl-v2"
    for folder in (first, second):
        shutil.copytree(ensure_tiny_model().path, folder)
    weights = next((second / "vae").glob("*.safetensors"))
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    site.desk.run("mc mb store/models\nmc cp --recursive sdxl-v1/ store/models/sdxl-v1/")


async def rotate_keys(site: Site, title: str) -> str:
    """A new key of the gateway beside the old one, then without it; then the store's key under a running fleet."""
    old, gateways = site.api_key, site.gateways()
    new = (await run(site, title, 0)).splitlines()[0]
    await asyncio.to_thread(_wait_for_key, site, new, 404)
    expect(_opens(site, old, 404), "the old key opens nothing although it was not revoked")
    await run(site, title, 1, OLD_ID=old.split("_")[1])
    await asyncio.to_thread(_wait_for_key, site, old, 401)
    expect(_opens(site, new, 404), "the new key opens nothing")
    expect(site.gateways() == gateways and not any(one.restarts for one in gateways), "gateways were started again")
    site.api_key = new
    former, site.store_key = site.store_key, await asyncio.to_thread(site.store_keys.make, "second")
    traffic = Traffic("rotate")
    async with traffic.flowing(site.settings, site.ready):
        await run(site, title, 2, NEW_KEY=site.store_key.access, NEW_SECRET=site.store_key.secret)
        await asyncio.to_thread(site.store_keys.revoke, former)
        await ask(site, "after-the-old-key")
    expect(not traffic.problems, f"{traffic.problems[:5]}")
    expect(traffic.ready_min >= WORKERS, f"only {traffic.ready_min} workers were ready at a time")
    status, body = await asyncio.to_thread(_generate, site, new)
    expect(status == 202, f"the gateway answered {status}: {body}")
    return (
        f"{len(gateways)} gateways took the new key and then refused the old one, without a restart; the store's key "
        f"was changed and the old one revoked while {len(traffic.sent)} requests were answered, never with fewer than "
        f"{traffic.ready_min} ready workers"
    )


def _opens(site: Site, key: str, status: int) -> bool:
    """Whether every gateway answers so to a question about a job that is not there."""
    path = "/v1/generations/nothing"
    return all(site.call(key, "GET", path, gateway=one)[0] == status for one in site.gateways())


def _wait_for_key(site: Site, key: str, status: int) -> None:
    wait_until(f"the gateways to answer {status}", lambda: _opens(site, key, status), NOTICED_S_MAX)


def _generate(site: Site, key: str) -> tuple[int, object]:
    body = {"request_id": "by-http", "prompt": "a figure", "steps": 4}
    return site.call(key, "POST", "/v1/generations", body, gateway=site.gateways()[0])


async def drain_a_node(site: Site, title: str) -> str:
    """All workers are on the node that is drained, so that the budget has something to say."""
    node, other = NODES
    await asyncio.to_thread(site.desk.run, f"kubectl cordon {other}\n")
    await asyncio.to_thread(
        site.desk.run,
        "kubectl -n $NS rollout restart deployment -l app.kubernetes.io/instance=$R\n"
        "kubectl -n $NS rollout status deployment/$R-gateway\n"
        "kubectl -n $NS rollout status deployment/$R-worker\n"
        f"kubectl uncordon {other}\n",
    )
    await asyncio.to_thread(wait_until, "the old workers to be gone", lambda: len(site.pods("worker")) == WORKERS)
    here = [pod.name for pod in site.nodes[node].pods.values() if pod.is_running and "-worker-" in pod.name]
    expect(len(here) == WORKERS, f"{len(here)} workers on {node}")
    traffic = Traffic("drain")
    async with traffic.flowing(site.settings, site.ready):
        said = await run(site, title, 0, NODE=node)
        left = list(site.nodes[node].pods.values())
        await asyncio.to_thread(site.await_fleet)
    expect(not traffic.problems, f"{traffic.problems[:5]}")
    expect(not left, f"still on {node}: {[pod.name for pod in left]}")
    expect(traffic.ready_min >= WORKERS - 1, f"only {traffic.ready_min} workers were ready at a time")
    gone = [ending for ending in site.endings() if ending.pod in here]
    bad = [ending for ending in gone if ending.killed or ending.exit_code != 0]
    expect(not bad and len(gone) == WORKERS, f"of {here} ended: {gone}")
    waited = said.count("would violate the pod's disruption budget")
    expect(waited > 0, f"the budget held nobody back: {said}")
    return (
        f"{len(gone)} workers drained and ended by themselves, the second after {waited} refusals by the budget, never "
        f"fewer than {traffic.ready_min} ready; {len(traffic.sent)} requests meanwhile, each answered once"
    )


async def replay_dead_letters(site: Site, title: str) -> str:
    """A request that kills its workers, until what makes it deadly is switched off."""
    died = await ask(site, "deadly", "[[simulate:crash]]")
    expect(died.error is not None and died.error.code.value == "worker_crash", f"it ended {died.status}: {died.error}")
    topic = re.escape(site.settings.topics.requests)
    blocks = site.blocks[title][0].splitlines(keepends=True)
    listed = await asyncio.to_thread(site.desk.run, blocks[0])
    [name] = re.findall(rf"(?m)^({topic}-\d+-\d+) .*worker_crash", listed)
    shown = await asyncio.to_thread(site.desk.run, filled("".join(blocks[1:]), {"ID": name}))
    expect("[[simulate:crash]]" in shown, f"dlq show printed no request: {shown}")
    site.write_values({"settings": {"simulated": {"obey_markers": False}}})
    await asyncio.to_thread(site.upgrade)
    async with Client(site.settings) as client:
        said = await run(site, title, 1, ID=name)
        found = (await client.wait(["deadly"], ANSWER_S_MAX)).get("deadly")
    expect("  replayed  " in said, f"dlq replay printed: {said}")
    expect(found is not None and found.status.value == "succeeded", f"the completion that came: {found}")
    deaths = sum(pod.restarts for pod in site.history())
    return f"{name} killed {deaths} workers and was set aside; replayed, its completion came: succeeded"


async def grow_partitions(site: Site, title: str) -> str:
    """To 24, under a running fleet."""
    async with Lag.of(site.settings) as lag:
        before = len(await lag.by_partition())
    traffic = Traffic("grow")
    async with traffic.flowing(site.settings, site.ready):
        await run(site, title, 0)
        await asyncio.to_thread(site.await_fleet)
        await _spread(site, before)
    expect(not traffic.problems, f"{traffic.problems[:5]}")
    scaled = site.deployment.api.call(
        "GET", f"/apis/keda.sh/v1alpha1/namespaces/{site.deployment.namespace}/scaledobjects/darkroom-worker"
    )
    most = scaled["spec"]["maxReplicaCount"]
    expect(most == PARTITIONS, f"KEDA may go to {most}")
    return (
        f"{before} partitions became {PARTITIONS}, each with a committed offset and the new ones with requests; KEDA "
        f"may go to {most} workers; "
        f"{len(traffic.sent)} requests meanwhile, each answered once"
    )


async def _spread(site: Site, before: int) -> None:
    """Returns when all partitions have an offset, and some new one has work that was done. Raises `TimeoutError`."""
    async with Lag.of(site.settings) as lag:
        there = len(await lag.by_partition())
        expect(there == PARTITIONS, f"there are {there} partitions")
        async with asyncio.timeout(NOTICED_S_MAX):  # workers and senders notice by their metadata_max_age_ms
            committed: dict[int, int] = {}
            while len(committed) < PARTITIONS or not any(committed[new] for new in range(before, PARTITIONS)):
                committed = await lag.committed()
                await asyncio.sleep(0.5)


async def clear_old_pictures(site: Site, title: str) -> str:
    """The rule, and what is older than the command says; then the same with an age that what is there has."""
    [block] = site.blocks[title]
    [image] = (await ask(site, "old")).images or ()
    picture = image.key
    tenant = picture.split("/")[0]
    said = await run(site, title, 0, TENANT=tenant)
    expect(
        re.search(rf"darkroom-retention.*Enabled.*\b{RETENTION_DAYS}\b", said) is not None, f"mc ilm rule ls: {said}"
    )
    there = f"mc ls --recursive store/{site.settings.s3.bucket}/{tenant}/"
    listed = await asyncio.to_thread(site.desk.run, there)
    expect(picture.removeprefix(f"{tenant}/") in listed, "the command removed what is younger than it says")
    removal = next(line for line in block.splitlines() if line.startswith("mc rm"))
    young = filled(removal, {"TENANT": tenant}).replace(f"{RETENTION_DAYS}d", "1s")
    await asyncio.sleep(1.1)
    await asyncio.to_thread(site.desk.run, young)
    left = await asyncio.to_thread(site.desk.run, there)
    expect(not left.strip(), f"still there: {left}")
    return f"the bucket's rule is {RETENTION_DAYS} days; younger pictures stayed, and went with --older-than 1s"
