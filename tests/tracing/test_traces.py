"""Proves that one trace leads from an HTTP call over Kafka and the worker's lanes to the completion's record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from darkroom.consumer.stack import Stack
from tests.integration.fleet import Fleet, wait_until
from tests.integration.gateways import GatewayProcess
from tests.producer.test_client import read_all_so_far
from tests.tracing.collector import Collector, Seen

pytestmark = pytest.mark.stack

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
LIMIT_S = 90.0


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


async def test_a_trace_leads_from_the_call_to_the_completion(
    stack: Stack, tmp_path: Path, collector: Collector
) -> None:
    fleet = Fleet(stack.environment, tmp_path, **collector.environment)
    await fleet.make_topics()
    request_id = f"{fleet.serial}-traced"
    worker = fleet.start("--simulated-device", "2")
    gateway = GatewayProcess(fleet.environment, tmp_path, "gateway")
    try:
        await asyncio.to_thread(worker.wait_ready)
        await asyncio.to_thread(gateway.wait_ready)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60, trust_env=False) as http:
            called = await http.post(
                "/v1/generations",
                json={"request_id": request_id, "prompt": "a figure", "steps": 4},
                headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=one", "baggage": "team=red"},
            )
            assert called.status_code == 202
            assert (await http.get(f"/v1/generations/{request_id}?wait=60")).json()["status"] == "succeeded"
        assert await asyncio.to_thread(worker.drain) == 0
        assert await asyncio.to_thread(gateway.end) == 0
    finally:
        fleet.stop()
        gateway.kill()
    topics = fleet.settings.topics
    spans = [one for one in collector.spans if one.trace_id == TRACE]
    by_name = {one.name: one for one in spans}
    assert sorted((one.service, one.name, one.kind) for one in spans) == sorted(
        (
            ("darkroom-gateway", "POST /v1/generations", "SERVER"),
            ("darkroom-gateway", f"send {topics.requests}", "PRODUCER"),
            ("darkroom-worker", f"process {topics.requests}", "CONSUMER"),
            ("darkroom-worker", "prepare", "INTERNAL"),
            ("darkroom-worker", "device", "INTERNAL"),
            ("darkroom-worker", "finish", "INTERNAL"),
            ("darkroom-worker", "store", "INTERNAL"),
            ("darkroom-worker", f"send {topics.completions}", "PRODUCER"),
        )
    )
    called_span, sent = by_name["POST /v1/generations"], by_name[f"send {topics.requests}"]
    process, published = by_name[f"process {topics.requests}"], by_name[f"send {topics.completions}"]
    assert called_span.parent_id == CALLER
    assert called_span.attributes["http.response.status_code"] == 202
    assert (sent.parent_id, process.parent_id, published.parent_id) == (
        called_span.span_id,
        sent.span_id,
        process.span_id,
    )
    work = [by_name[name] for name in ("prepare", "device", "finish", "store")]
    assert {one.parent_id for one in work} == {process.span_id}
    _see_in_order(process, [*work, published])
    assert process.attributes["messaging.operation.type"] == "process"
    assert process.attributes["messaging.kafka.offset"] == 0
    assert process.attributes["darkroom.status"] == "succeeded"
    assert by_name["device"].attributes["darkroom.batch.rows_max"] == 1
    for name, linked in ((f"poll {topics.requests}", sent), (f"commit {topics.requests}", process)):
        [batch] = [one for one in collector.spans if one.name == name]
        assert batch.links == (linked.span_id,)
        assert batch.trace_id != TRACE, "it is of many requests"
    [completion] = await read_all_so_far(fleet.settings, topics.completions)
    headers = {name: (value or b"").decode() for name, value in completion.headers}
    assert headers["traceparent"] == f"00-{TRACE}-{published.span_id}-01"
    assert (headers["tracestate"], headers["baggage"]) == ("vendor=one", "team=red")
    [line] = worker.events("published")
    assert (line["trace_id"], line["span_id"]) == (TRACE, process.span_id)
    as_json = tmp_path / "trace.json"
    collector.write(as_json)
    written = [
        span["traceId"]
        for group in json.loads(as_json.read_text())["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]
    assert TRACE in written


def _see_in_order(process: Seen, parts: list[Seen]) -> None:
    """See that each part is inside of the process span and begins no earlier than the one before."""
    slack_ns = 50_000_000  # of two clocks: the event loop's and the day's
    for before, after in pairwise(parts):
        assert before.began_ns <= after.began_ns + slack_ns, (before.name, after.name)
    for one in parts:
        assert process.began_ns - slack_ns <= one.began_ns <= one.ended_ns <= process.ended_ns + slack_ns, one.name


async def test_without_a_collector_the_context_is_passed_on_as_it_is(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path)
    await fleet.make_topics()
    request_id = f"{fleet.serial}-traced"
    worker = fleet.start("--simulated-device", "2")
    gateway = GatewayProcess(fleet.environment, tmp_path, "gateway")
    trace = f"00-{TRACE}-{CALLER}-01"
    try:
        await asyncio.to_thread(worker.wait_ready)
        await asyncio.to_thread(gateway.wait_ready)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60, trust_env=False) as http:
            await http.post(
                "/v1/generations",
                json={"request_id": request_id, "prompt": "a figure", "steps": 4},
                headers={"traceparent": trace, "tracestate": "vendor=one", "baggage": "team=red"},
            )
            assert (await http.get(f"/v1/generations/{request_id}?wait=60")).json()["status"] == "succeeded"
        # The outcome is known before its record is committed.
        await asyncio.to_thread(wait_until, lambda: bool(worker.events("published")), LIMIT_S, "the commit")
    finally:
        fleet.stop()
        gateway.kill()
    for topic in (fleet.settings.topics.requests, fleet.settings.topics.completions):
        [record] = await read_all_so_far(fleet.settings, topic)
        headers = {name: (value or b"").decode() for name, value in record.headers}
        assert (headers["traceparent"], headers["tracestate"], headers["baggage"]) == (trace, "vendor=one", "team=red")
    assert worker.events("published")[0]["trace_id"] == TRACE
