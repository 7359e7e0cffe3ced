"""Fuzzes the HTTP surface from its own OpenAPI: no 500, no hang, no traceback, and answers as the schema says."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.producer.gateway.house import STUDIO, House

EXAMPLES = int(os.environ.get("DARKROOM_FUZZ_EXAMPLES", "8"))
"""Cases of each call in each mode; set it higher to look longer."""
CALL_S_MAX = 10.0
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CALLS = [
    ("/v1/generations", "POST"),
    ("/v1/generations", "GET"),
    ("/v1/generations/{request_id}", "GET"),
    ("/v1/generations/{request_id}", "DELETE"),
    ("/v1/generations/{request_id}/events", "GET"),
    ("/v1/generations/{request_id}/images/{number}", "GET"),
    ("/v1/fleet", "GET"),
    ("/v1/recipes", "GET"),
    ("/v1/controls", "GET"),
    ("/v1/poses", "POST"),
    ("/generate", "POST"),
    ("/v1/images/generations", "POST"),
    ("/v1/images/edits", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
]
TAKES_NOTHING = ("/v1/fleet", "/v1/recipes", "/v1/controls", "/v1/models")
"""Nothing is unlawful there."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway on a thread of its own, with a job that is finished and one that is not."""
    house = House(
        wait_s_max=0.05, generate_timeout_s=1.0, events_comment_s=0.1, events_write_s=1.0, waiting_check_s=0.1
    )
    started, done = threading.Event(), threading.Event()
    addresses: list[str] = []

    async def run() -> None:
        async with house.gateway() as replica, replica.on_a_port() as address:
            for name in ("hello-1", "hello-2"):
                await replica.post({"request_id": name, "prompt": "a dancer"})
            await house.decide(house.kafka.sent[0])
            addresses.append(address)
            started.set()
            # Whatever is sent is finished soon, so that streams and waits end.
            while not done.is_set():
                for request in list(house.kafka.sent):
                    replica.gateway.services.hub.on_completion(await house.decide(request))
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield addresses[0]
    finally:
        done.set()
        thread.join(30)


@pytest.fixture(scope="module")
def schema(url: str) -> schemathesis.BaseSchema:
    """As callers read it."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        pytest.param(path, method, mode, id=f"{mode.value} {method} {path}")
        for path, method in CALLS
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode is GenerationMode.POSITIVE or path not in TAKES_NOTHING
    ],
)
def test_whatever_is_sent_there_is_a_lawful_answer(
    schema: schemathesis.BaseSchema, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schema[path][method]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case: Case) -> None:
        response = case.call(headers=STUDIO, timeout=CALL_S_MAX, allow_redirects=False)
        assert b"Traceback" not in response.content
        case.validate_response(response, checks=CHECKS)

    fuzz()


def test_every_call_of_the_api_is_fuzzed(schema: schemathesis.BaseSchema) -> None:
    found = {(one.ok().path, one.ok().method.upper()) for one in schema.get_all_operations()}
    assert found - {("/livez", "GET"), ("/readyz", "GET")} == set(CALLS)
