"""The list of jobs: whose they are, in which order, through which filters, and page by page."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from darkroom.producer.gateway.jobs import catalogue as module
from darkroom.producer.gateway.jobs.catalogue import Catalogue, Wanted
from darkroom.producer.gateway.services import new_hub
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings
from tests.producer.examples import Picture
from tests.producer.gateway.house import RIVAL, House, Replica, failure_of, png, progress_of, success_of

BEGIN_MS = 1_700_000_000_000


def request_of(name: str, tenant: str = "studio", **more: Any) -> GenerationRequest:
    """A request."""
    return GenerationRequest(request_id=name, tenant=tenant, prompt="a dancer", **more)


def given(replica: Replica, count: int, **more: Any) -> list[GenerationRequest]:
    """Jobs of the studio, a second apart, as Kafka has them."""
    requests = [request_of(f"job-{number}", **more) for number in range(count)]
    for number, request in enumerate(requests):
        replica.gateway.services.catalogue.on_request(request, BEGIN_MS + 1000 * number, is_recorded=True)
    return requests


async def listed(replica: Replica, **asked: Any) -> list[str]:
    """The ids of one page."""
    response = await replica.client.get("/v1/generations", params=asked)
    assert response.status_code == 200, response.text
    return [job["request_id"] for job in response.json()["jobs"]]


async def test_a_job_is_listed_as_soon_as_it_is_accepted_and_with_its_outcome(house: House, replica: Replica) -> None:
    await replica.post({"request_id": "hello-1", "prompt": "a dancer", "labels": {"shoot": "7"}})
    [job] = (await replica.client.get("/v1/generations")).json()["jobs"]
    assert job == {
        "request_id": "hello-1",
        "status": "queued",
        "at": job["at"],
        "completed_at": None,
        "prompt": "a dancer",
        "labels": {"shoot": "7"},
        "error": None,
        "images": [],
        "status_url": "/v1/generations/hello-1",
    }
    [request] = house.kafka.sent
    replica.gateway.services.hub.on_progress(progress_of(request, 3))
    assert (await replica.client.get("/v1/generations")).json()["jobs"][0]["status"] == "running"
    replica.gateway.services.catalogue.on_completion(success_of(request, Picture(content=png(64, 48))))
    [job] = (await replica.client.get("/v1/generations")).json()["jobs"]
    assert (job["status"], job["images"]) == ("succeeded", ["/v1/generations/hello-1/images/0"])
    assert job["completed_at"] is not None


async def test_pages_go_on_where_the_last_one_ended_while_jobs_come(replica: Replica) -> None:
    given(replica, 7)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        asked = {"limit": 3, **({} if cursor is None else {"cursor": cursor})}
        page = (await replica.client.get("/v1/generations", params=asked)).json()
        seen += [job["request_id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        newer = request_of(f"newer-{len(seen)}")
        replica.gateway.services.catalogue.on_request(newer, BEGIN_MS + 60_000, is_recorded=True)
        if cursor is None:
            break
    assert seen == [f"job-{number}" for number in range(6, -1, -1)]


async def test_the_list_is_filtered_by_status_label_and_time(replica: Replica) -> None:
    requests = given(replica, 4, labels={"shoot": "7", "a": "b=c"})
    catalogue = replica.gateway.services.catalogue
    catalogue.on_request(request_of("other", labels={"shoot": "8"}), BEGIN_MS + 9000, is_recorded=True)
    catalogue.on_completion(failure_of(requests[1], ErrorCode.RENDER_FAILED))
    catalogue.on_completion(failure_of(requests[2], ErrorCode.CANCELLED))
    assert await listed(replica, status="failed") == ["job-1"]
    assert await listed(replica, status=["failed", "cancelled"]) == ["job-2", "job-1"]
    assert await listed(replica, label="shoot=8") == ["other"]
    assert await listed(replica, label=["shoot=7", "a=b=c"]) == ["job-3", "job-2", "job-1", "job-0"]
    assert await listed(replica, label=["shoot=7", "a=b"]) == []
    second = datetime.fromtimestamp(BEGIN_MS / 1000, UTC) + timedelta(seconds=1)
    until = second + timedelta(seconds=2)
    assert await listed(replica, since=second.isoformat(), until=until.isoformat()) == ["job-2", "job-1"]


async def test_a_tenant_sees_its_own_jobs_alone_whatever_cursor_it_brings(replica: Replica) -> None:
    given(replica, 3)
    theirs = request_of("secret", "rival")
    replica.gateway.services.catalogue.on_request(theirs, BEGIN_MS, is_recorded=True)
    first = (await replica.client.get("/v1/generations", params={"limit": 1})).json()
    assert await listed(replica) == ["job-2", "job-1", "job-0"]
    asked = {"cursor": first["next_cursor"]}
    refused = await replica.client.get("/v1/generations", params=asked, headers=RIVAL)
    assert refused.status_code == 422
    assert "cursor" in refused.json()["detail"]
    forged = json.loads(base64.b64decode(first["next_cursor"] + "=="))
    forged[0] = module._mark_of("rival")
    text = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode()
    page = await replica.client.get("/v1/generations", params={"cursor": text}, headers=RIVAL)
    assert [job["request_id"] for job in page.json()["jobs"]] == ["secret"]


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "é", "bnVsbA", "WzEsMiwzXQ", "W1tbW1tbW1tbW1tbW1tbW1tbW1s"])
async def test_whatever_is_no_cursor_is_refused_with_its_remedy(replica: Replica, cursor: str) -> None:
    refused = await replica.client.get("/v1/generations", params={"cursor": cursor})
    assert refused.status_code == 422
    assert "next_cursor" in refused.json()["remedy"]


@pytest.mark.parametrize("asked", [{"limit": 0}, {"limit": 201}, {"status": "done"}, {"label": "x"}, {"since": "now"}])
async def test_what_is_asked_is_checked(replica: Replica, asked: dict[str, Any]) -> None:
    assert (await replica.client.get("/v1/generations", params=asked)).status_code == 422


async def test_until_the_list_has_been_read_it_is_not_given(replica: Replica) -> None:
    replica.gateway.services.catalogue.unready = "It is being read."
    refused: httpx.Response = await replica.client.get("/v1/generations")
    assert (refused.status_code, refused.json()["code"]) == (503, "list_unavailable")
    assert "retry-after" in refused.headers


def test_repetitions_and_conflicts_leave_a_job_as_it_is() -> None:
    catalogue = Catalogue(new_hub(Settings()), kept_max=10)
    catalogue.on_request(request_of("job"), BEGIN_MS + 5, is_recorded=False)  # accepted here,
    catalogue.on_request(request_of("job"), BEGIN_MS + 9, is_recorded=True)  # and then read with Kafka's time
    catalogue.on_request(request_of("job", labels={"x": "y"}), BEGIN_MS + 99, is_recorded=True)
    catalogue.on_request(request_of("job"), BEGIN_MS + 99, is_recorded=False)
    catalogue.on_completion(failure_of(request_of("job"), ErrorCode.REQUEST_ID_CONFLICT))
    [(entry, status)] = catalogue.page("studio", Wanted(), after=None, limit=10).entries
    assert (entry.at_ms, entry.labels, status) == (BEGIN_MS + 9, {}, "queued")


def test_an_outcome_without_its_request_is_a_job_too_and_meets_it_later() -> None:
    catalogue = Catalogue(new_hub(Settings()), kept_max=10)
    catalogue.on_completion(failure_of(request_of("job"), ErrorCode.RENDER_FAILED))
    [(entry, status)] = catalogue.page("studio", Wanted(), after=None, limit=10).entries
    assert (entry.prompt, status, entry.error) == (None, "failed", "render_failed")
    catalogue.on_request(request_of("job"), BEGIN_MS, is_recorded=True)
    [(entry, status)] = catalogue.page("studio", Wanted(), after=None, limit=10).entries
    assert (entry.prompt, entry.at_ms, status) == ("a dancer", BEGIN_MS, "failed")


def test_the_list_is_bounded_and_the_tenant_with_the_most_jobs_loses_its_oldest() -> None:
    catalogue = Catalogue(new_hub(Settings()), kept_max=5)
    catalogue.on_request(request_of("mine", "small"), 1, is_recorded=True)
    for number in range(20):
        catalogue.on_request(request_of(f"job-{number}"), BEGIN_MS + number, is_recorded=True)
    assert len(catalogue) == 5
    assert len(catalogue.page("small", Wanted(), after=None, limit=9).entries) == 1
    kept = [entry.request_id for entry, _ in catalogue.page("studio", Wanted(), after=None, limit=9).entries]
    assert kept == ["job-19", "job-18", "job-17", "job-16"]


def test_a_job_from_before_the_outcomes_that_were_read_is_not_called_queued() -> None:
    catalogue = Catalogue(new_hub(Settings()), kept_max=10)
    for number in range(3):
        catalogue.on_request(request_of(f"job-{number}"), BEGIN_MS + number, is_recorded=True)
    catalogue.on_completion(failure_of(request_of("job-0"), ErrorCode.RENDER_FAILED))
    catalogue.horizon_ms = BEGIN_MS + 2
    found = catalogue.page("studio", Wanted(), after=None, limit=10).entries
    assert [(entry.request_id, status) for entry, status in found] == [("job-2", "queued"), ("job-0", "failed")]


@pytest.mark.parametrize("is_read_again", [False, True])
def test_of_an_erased_job_the_list_keeps_nothing_that_it_said(is_read_again: bool) -> None:
    catalogue, request = Catalogue(new_hub(Settings()), kept_max=10), request_of("job", labels={"who": "me"})
    catalogue.on_request(request, BEGIN_MS, is_recorded=False)
    catalogue.erase("studio", "job")
    if is_read_again:  # from Kafka, which keeps it for a while
        catalogue.on_request(request, BEGIN_MS, is_recorded=True)
    [(entry, status)] = catalogue.page("studio", Wanted(), after=None, limit=10).entries
    assert (entry.prompt, dict(entry.labels), status) == (None, {}, "erased")


@pytest.mark.parametrize("at_ms", [-1, 2**62])
async def test_a_record_with_any_time_is_listed(replica: Replica, at_ms: int) -> None:
    replica.gateway.services.catalogue.on_request(request_of("job"), at_ms, is_recorded=True)
    assert await listed(replica) == ["job"]


def test_a_rare_filter_is_bounded_and_goes_on_from_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCANNED_MAX", 4)
    catalogue = Catalogue(new_hub(Settings()), kept_max=100)
    catalogue.on_request(request_of("rare", labels={"x": "y"}), 1, is_recorded=True)
    for number in range(9):
        catalogue.on_request(request_of(f"job-{number}"), BEGIN_MS + number, is_recorded=True)
    cursor, found, pages = None, [], 0
    while True:
        page = catalogue.page("studio", Wanted(labels={"x": "y"}), after=cursor, limit=5)
        found += [entry.request_id for entry, _ in page.entries]
        cursor, pages = page.cursor, pages + 1
        if cursor is None:
            break
    assert (found, pages) == (["rare"], 3)
