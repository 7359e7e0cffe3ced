"""Proves what comes in and goes out at the edge: bodies, headers, what browsers are told, origins, and log lines."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI, Request, UploadFile
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from darkroom.producer.gateway.access.middleware import AccessLog, InputLimits, content_policy
from tests.producer.gateway.access.serving import app_of, calling, served, settings_with

KIB = 1024


async def raw(port: int, content: bytes, limit_s: float = 10.0) -> tuple[int, dict[str, Any]]:
    """What a server answers to bytes: the status and the problem. The connection is left open towards it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(content)
        async with asyncio.timeout(limit_s):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await reader.read()
    finally:
        writer.close()
    return int(head.split(" ")[1]), json.loads(body)


def limits_with(**access: Any) -> Middleware:
    """The bounds on what comes in, by themselves."""
    return Middleware(InputLimits, settings=settings_with(**access).access)


HEAD = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\n"


async def test_a_body_that_is_too_large_is_413_however_it_is_announced() -> None:
    async with served(app_of(settings_with(body_bytes_max=4 * KIB))) as port:
        announced = await raw(port, HEAD + b"Content-Length: 999999999999\r\n\r\n")
        chunk = b"400\r\n" + b"x" * KIB + b"\r\n"
        chunked = await raw(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5)
        assert [(status, problem["code"]) for status, problem in (announced, chunked)] == [(413, "body_too_large")] * 2
        async with httpx.AsyncClient(base_url=f"http://localhost:{port}") as client:
            assert (await client.post("/jobs", content=b"x" * 4 * KIB)).json()["bytes"] == 4 * KIB


async def test_a_slow_body_is_408_and_keeps_nobody_else() -> None:
    async with served(app_of(settings_with(body_read_timeout_s=0.4))) as port:
        started = time.monotonic()
        slow = asyncio.create_task(raw(port, HEAD + b"Content-Length: 100\r\n\r\nslow"))
        async with httpx.AsyncClient(base_url=f"http://localhost:{port}") as client:
            assert (await client.get("/jobs")).status_code == 200
        status, problem = await slow
        assert (status, problem["code"]) == (408, "body_too_slow")
        assert time.monotonic() - started >= 0.4


async def test_a_long_answer_is_not_taken_for_a_slow_body() -> None:
    app = FastAPI(middleware=[limits_with(body_read_timeout_s=0.2)])

    async def waits(request: Request) -> dict[str, bool]:
        await request.body()
        await asyncio.sleep(0.4)
        return {"gone": await request.is_disconnected()}

    app.add_api_route("/waits", waits, methods=["POST"])
    async with served(app) as port, httpx.AsyncClient(base_url=f"http://localhost:{port}") as client:
        assert (await client.post("/waits", content=b"x")).json() == {"gone": False}


@pytest.mark.parametrize("reading", ["multipart", "json", "swallowed"])
async def test_what_the_application_makes_of_the_interruption_is_replaced(reading: str) -> None:
    app = FastAPI(middleware=[limits_with(body_bytes_max=KIB)])

    async def upload(file: UploadFile) -> dict[str, int]:
        return {"bytes": file.size or 0}

    async def parsed(body: dict[str, Any]) -> dict[str, int]:
        return {"members": len(body)}

    async def swallowed(request: Request) -> dict[str, str]:
        try:
            await request.body()
        except Exception:
            return {"it": "went well"}
        return {"it": "was read"}

    for path, route in (("multipart", upload), ("json", parsed), ("swallowed", swallowed)):
        app.add_api_route(f"/{path}", route, methods=["POST"])

    async def chunks() -> AsyncIterator[bytes]:
        yield b"--b\r\n" + b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(4):
            yield b"x" * 512

    kind = "multipart/form-data; boundary=b" if reading == "multipart" else "application/json"
    async with calling(app) as client:
        answer = await client.post(f"/{reading}", content=chunks(), headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_too_many_and_too_large_headers_are_431() -> None:
    async with calling(app_of(settings_with())) as client:
        for headers in ({f"X-{number}": "x" for number in range(120)}, {"X-Large": "x" * 17 * KIB}):
            answer = await client.get("/jobs", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize("line", [b"X-A: b\r\n Injected: c\r\n", b"X-A: b\x00\r\n", b"X A: b\r\n"])
async def test_header_injection_reaches_no_route(line: bytes) -> None:
    async with served(app_of(settings_with())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + line + b"\r\n")
        head = (await asyncio.wait_for(reader.read(), 10)).decode()
        writer.close()
    assert head.startswith("HTTP/1.1 400") or "\r\ninjected" not in head.lower()


async def test_browsers_are_told_to_load_nothing_from_elsewhere() -> None:
    async with calling(app_of(settings_with())) as client, calling(app_of(settings_with()), base="https://x") as secure:
        for answer in (await client.get("/jobs"), await client.get("/nowhere"), await client.get("/session")):
            headers = answer.headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert "camera=()" in headers["permissions-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert "default-src 'self';" in headers["content-security-policy"]
            assert "strict-transport-security" not in headers
        assert (await secure.get("/session")).headers["strict-transport-security"]
    assert "img-src 'self' data: blob: https://s3.example;" in content_policy(["https://s3.example"])


async def test_no_other_origin_may_read_unless_it_is_allowed_and_never_with_the_cookie() -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    async with calling(app_of(settings_with())) as client:
        answer = await client.options("/jobs", headers=asked)
        assert not any(name.startswith("access-control-") for name in answer.headers)
    async with calling(app_of(settings_with(allowed_origins="https://shop.example"))) as client:
        answer = await client.options("/jobs", headers={**asked, "Access-Control-Request-Headers": "Authorization"})
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert "access-control-allow-credentials" not in answer.headers
        evil = await client.options("/jobs", headers={**asked, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in evil.headers


async def test_every_call_is_one_log_line_with_the_id_that_the_answer_has() -> None:
    with structlog.testing.capture_logs() as lines:
        async with calling(app_of(settings_with())) as client:
            own = await client.get("/jobs?secret=x", headers={"X-Request-ID": "order-7"})
            made = await client.get("/jobs", headers={"X-Request-ID": "a b\tforged: line"})
            await client.get("/livez")
    calls = [line for line in lines if line["event"] == "call"]
    assert own.headers["x-request-id"] == "order-7"
    assert made.headers["x-request-id"].isalnum()
    assert [line["call_id"] for line in calls[:2]] == ["order-7", made.headers["x-request-id"]]
    assert calls[0] | {"tenant": "default", "name": "loopback", "status": 200, "path": "/jobs"} == calls[0]
    assert "secret" not in str(calls)


async def test_a_path_cannot_begin_a_log_line_or_fill_the_log() -> None:
    with structlog.testing.capture_logs() as lines:
        async with calling(app_of(settings_with())) as client:
            await client.get("/a%0d%0a%7b%22event%22%3a%22forged%22%7d%1b%5b2J%e2%80%ae")
            await client.get("/" + "x" * 5000)
    assert [line["path"][:8] for line in lines if line["event"] == "call"] == ['/a\\r\\n{"', "/xxxxxxx"]
    assert all(line["path"].isprintable() and len(line["path"]) <= 300 for line in lines if line["event"] == "call")


async def test_a_call_that_fails_is_logged_as_well_and_probes_that_succeed_are_not() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/livez":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            return
        raise RuntimeError("broken")

    async def nothing(*_: Any) -> None:
        return None

    with structlog.testing.capture_logs() as lines:
        with pytest.raises(RuntimeError):
            await AccessLog(fails)({"type": "http", "method": "GET", "path": "/x", "headers": []}, nothing, nothing)
        await AccessLog(fails)({"type": "http", "method": "GET", "path": "/livez", "headers": []}, nothing, nothing)
    assert [(line["path"], line["status"]) for line in lines] == [("/x", None)]


async def test_a_prompt_that_the_policy_rejects_is_422_and_names_no_word(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('version = "3"\n[[block]]\ncategory = "sexual"\nwords = ["nude"]\n')
    registry = CollectorRegistry()
    async with calling(app_of(settings_with(policy_file=file), registry)) as client:
        assert (await client.post("/jobs", content=b"a dancer")).status_code == 200
        answer = await client.post("/jobs", content=b"a n.u.d.e dancer")
    assert (answer.status_code, answer.json()["code"]) == (422, "prompt_rejected")
    assert (answer.json()["category"], answer.json()["policy_version"]) == ("sexual", "3")
    assert "nude" not in answer.text
    assert registry.get_sample_value("darkroom_policy_rejections_total", {"category": "sexual"}) == 1
