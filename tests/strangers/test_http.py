"""What HTTP clients send to the gateway and to a worker: probes, forms, prefixes, pages of other origins."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from darkroom.producer.gateway.access.keys import new_key
from tests.integration.fleet import Fleet
from tests.integration.gateways import GatewayProcess
from tests.producer.gateway.house import png
from tests.strangers.prefixed import behind_a_prefix
from tests.strangers.table import Stranger, rows

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

LIMIT_S = 30
SHOP = "https://shop.example"
FIGURE = png(48, 64)


@dataclass(frozen=True)
class Site:
    """A worker and two gateways of one deployment: one for this machine, one with keys and an allowed origin."""

    worker_url: str
    url: str
    keyed_url: str
    key: str


@pytest.fixture(scope="module")
def site(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All of it, ready."""
    folder = tmp_path_factory.mktemp("site")
    key, entry = new_key("default", ["submit", "read", "cancel"], now=datetime.now(UTC))
    (folder / "keys.jsonl").write_text(entry.line())
    fleet = Fleet(stack.environment, folder)
    asyncio.run(fleet.make_topics())
    worker = fleet.start("--simulated-device", "0")
    with_keys = {
        **fleet.environment,
        "DARKROOM_ACCESS__KEYS_FILE": str(folder / "keys.jsonl"),
        "DARKROOM_ACCESS__ALLOWED_ORIGINS": "https://Shop.example:443",
        "DARKROOM_ACCESS__CALLS_PER_MINUTE_MAX": "40",
        "DARKROOM_ACCESS__CALLS_BURST_MAX": "40",
    }
    gateways = [
        GatewayProcess(fleet.environment, folder, "gateway"),
        GatewayProcess(with_keys, folder, "gateway-with-keys"),
    ]
    try:
        worker.wait_ready()
        for gateway in gateways:
            gateway.wait_ready()
        yield Site(worker.url(""), gateways[0].url, gateways[1].url, key)
    finally:
        for gateway in gateways:
            gateway.kill()
        fleet.stop()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Follows nothing, and asks no proxy."""
    with httpx.Client(timeout=LIMIT_S, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def job(site: Site, client: httpx.Client) -> str:
    """The id of a job that has its picture."""
    made = client.post(f"{site.url}/v1/generations", json={"prompt": "a red figure"})
    request_id: str = made.json()["request_id"]
    state = client.get(f"{site.url}/v1/generations/{request_id}?wait=20").json()
    assert state["status"] == "succeeded", state
    return request_id


# --- HEAD, and methods that nobody takes -------------------------------------------------------------------


PROBES = [
    Stranger("liveness", "HAProxy 3.0 option httpchk HEAD", "/livez", 200),
    Stranger("readiness", "UptimeRobot 2026 HTTP monitor", "/readyz", 200),
    Stranger("metrics", "curl 8.5 --head", "/metrics", 200),
    Stranger("fleet", "Uptime Kuma 2.0 HEAD", "/v1/fleet", 200),
    Stranger("state", "curl 8.5 --head", "/v1/generations/{job}", 200),
    Stranger("state-of-nothing", "curl 8.5 --head", "/v1/generations/nothing", 404),
    Stranger("picture", "wget 1.24 --spider", "/v1/generations/{job}/images/0", 200),
    Stranger("picture-of-nothing", "wget 1.24 --spider", "/v1/generations/{job}/images/7", 404),
    Stranger("page", "wget 1.24 --spider", "/", 200),
    Stranger("style", "wget 1.24 --spider", "/page/style.css", 200),
    Stranger("docs", "wget 1.24 --spider", "/docs", 200),
    Stranger("openapi", "wget 1.24 --spider", "/openapi.json", 200),
    Stranger("session", "curl 8.5 --head", "/session", 200),
    Stranger("nowhere", "curl 8.5 --head", "/nowhere", 404),
]
OF_NOW = frozenset({"date", "x-request-id"})
CHANGING = ("/metrics", "/v1/fleet")


def told(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of one call on a connection that is kept."""
    connection.request(method, path)
    answer = connection.getresponse()
    headers = {name.lower(): text for name, text in answer.getheaders() if name.lower() not in OF_NOW}
    if path in CHANGING:
        headers.pop("content-length", None)
    return answer.status, headers, answer.read()


@pytest.mark.parametrize("row", rows(PROBES))
def test_head_is_answered_as_get_without_the_content(row: Stranger[str, int], site: Site, job: str) -> None:
    """RFC 9110, 9.3.2. On one connection: content that was sent all the same would spoil the next answer."""
    path = row.given.format(job=job)
    connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=LIMIT_S)
    head = told(connection, "HEAD", path)
    get = told(connection, "GET", path)
    connection.close()
    assert head == (row.right, get[1], b"")
    assert get[0] == row.right
    assert len(get[2]) > 0
    assert path in CHANGING or int(get[1]["content-length"]) == len(get[2])


def test_head_of_a_stream_has_its_headers_and_ends(site: Site, client: httpx.Client, job: str) -> None:
    answer = client.head(f"{site.url}/v1/generations/{job}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert client.get(f"{site.url}/readyz").status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/nowhere"])
def test_a_worker_answers_head(path: str, site: Site, client: httpx.Client) -> None:
    head, get = client.head(site.worker_url + path), client.get(site.worker_url + path)
    assert head.status_code == get.status_code == (404 if path == "/nowhere" else 200)
    assert head.headers["content-type"] == get.headers["content-type"]
    assert path == "/metrics" or head.headers["content-length"] == str(len(get.content))
    assert head.content == b""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/livez", "GET, HEAD"),
        ("/v1/generations", "GET, HEAD, POST"),
        ("/v1/generations/x", "GET, HEAD, DELETE"),
        ("/session", "GET, HEAD, POST, DELETE"),
        ("/generate", "POST"),
        ("/", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PROPFIND", "BREW"])
def test_a_method_that_a_path_does_not_take_is_405_and_names_those_it_takes(
    method: str, path: str, allowed: str, site: Site, client: httpx.Client
) -> None:
    answer = client.request(method, site.url + path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "BREW"])
def test_a_worker_says_405_as_well(method: str, site: Site, client: httpx.Client) -> None:
    answer = client.request(method, f"{site.worker_url}/metrics")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/livez/", "/generate//", "/docs/", "/v1/fleet//"])
def test_a_slash_too_many_is_named(path: str, site: Site, client: httpx.Client) -> None:
    answer = client.get(site.url + path)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_path")
    assert "slash" in answer.json()["remedy"]


def by_hand(site: Site, head: str, body: bytes = b"") -> bytes:
    """Everything that is answered to a call that was written by hand."""
    with socket.create_connection((urlsplit(site.url).hostname, urlsplit(site.url).port), timeout=LIMIT_S) as raw:
        raw.sendall(head.encode() + body)
        answer = b""
        while chunk := raw.recv(65_536):
            answer += chunk
    return answer


def test_expect_100_continue_is_answered_before_the_body(site: Site) -> None:
    """curl asks so before bodies of a MiB and more (RFC 9110, 10.1.1)."""
    body = json.dumps({"prompt": "a red figure"}).encode()
    head = (
        "POST /v1/generations HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = by_hand(site, head, body)
    assert answer.startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 202 " in answer


def test_http_1_0_is_answered(site: Site) -> None:
    """ApacheBench and old probes speak it."""
    assert by_hand(site, "GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200 ")


# --- Forms -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A posted body and its type."""

    content: bytes
    content_type: str = "multipart/form-data; boundary=B"


@dataclass(frozen=True)
class Painted:
    """The request that a form has to become: these fields, and a pose or none."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    pose: str | None = None


def part(disposition: str, content: bytes = b"", *more: str) -> bytes:
    """One part of a multipart body."""
    lines = "\r\n".join((f"--B\r\nContent-Disposition: form-data; {disposition}", *more))
    return lines.encode() + b"\r\n\r\n" + content + b"\r\n"


END = b"--B--\r\n"
PROMPT = part('name="prompt"', b"a red figure")
OCTETS = "Content-Type: application/octet-stream"
RED = {"prompt": "a red figure"}

FORMS = [
    Stranger(
        "no-file-chosen-and-a-number-left-empty",
        "Chromium 150 <form enctype=multipart/form-data>",
        Form(PROMPT + part('name="seed"') + part('name="pose"; filename=""', b"", OCTETS) + END),
        Painted(RED),
    ),
    Stranger(
        "every-field-left-empty",
        "Firefox 140 <form enctype=multipart/form-data>",
        Form(
            PROMPT
            + b"".join(part(f'name="{name}"') for name in ("negative_prompt", "preset", "steps", "width", "request_id"))
            + part('name="pose"; filename=""', b"", OCTETS)
            + part('name="photo"; filename=""', b"", OCTETS)
            + END
        ),
        Painted(RED),
    ),
    Stranger(
        "a-picture-without-a-type-after-an-empty-file",
        "curl 8.5 --form pose=@figure",
        Form(
            part('name="photo"; filename=""', b"", OCTETS)
            + part('name="pose"; filename="figure"', FIGURE, OCTETS)
            + PROMPT
            + END
        ),
        Painted(RED, "image"),
    ),
    Stranger(
        "names-without-quotes-and-a-second-file-name",
        ".NET 9.0 MultipartFormDataContent",
        Form(
            part("name=prompt", b"a red figure", "Content-Type: text/plain; charset=utf-8")
            + part("name=pose; filename=figure.png; filename*=utf-8''figure.png", FIGURE)
            + END
        ),
        Painted(RED, "image"),
    ),
    Stranger(
        "numbers-as-html-writes-them",
        "Firefox 140 <input type=number>",
        Form(PROMPT + part('name="guidance_scale"', b".5") + part('name="seed"', b"007") + END),
        Painted({"guidance_scale": 0.5, "seed": 7, **RED}),
    ),
    Stranger(
        "the-request-as-a-blob",
        "Chromium 150 FormData.append('request', new Blob([...], {type: 'application/json'}))",
        Form(
            part(
                'name="request"; filename="blob"',
                b'{"prompt":"a red figure","seed":3}',
                "Content-Type: application/json",
            )
            + END
        ),
        Painted({"seed": 3, **RED}),
    ),
    Stranger(
        "a-file-without-a-name",
        "Chromium 150 new File([...], '')",
        Form(PROMPT + part('name="pose"; filename=""', FIGURE, "Content-Type: image/png") + END),
        Painted(RED, "image"),
    ),
    Stranger(
        "the-encoding-in-a-field",
        "Chromium 150 <input type=hidden name=_charset_>",
        Form(part('name="_charset_"', b"UTF-8") + part('name="prompt"', "une fée".encode()) + END),
        Painted({"prompt": "une fée"}),
    ),
    Stranger(
        "an-encoding-that-is-named",
        "Apache HttpClient 4.5 MultipartEntityBuilder.setCharset",
        Form(
            part('name="prompt"', "une fée".encode("latin-1")) + END,
            "multipart/form-data; boundary=B; charset=ISO-8859-1",
        ),
        Painted({"prompt": "une fée"}),
    ),
    Stranger(
        "a-plain-form",
        "Chromium 150 <form method=post>",
        Form(b"prompt=une+f%C3%A9e&seed=&steps=12&pose=", "application/x-www-form-urlencoded"),
        Painted({"prompt": "une fée", "steps": 12}),
    ),
    Stranger(
        "text-that-is-not-escaped",
        "curl 8.5 --data 'prompt=une fée'",
        Form("prompt=une fée".encode(), "application/x-www-form-urlencoded"),
        Painted({"prompt": "une fée"}),
    ),
]


@pytest.mark.parametrize("row", rows(FORMS))
@pytest.mark.parametrize("path", ["/generate", "/v1/generations"])
def test_a_form_is_painted_as_it_was_filled_in(
    path: str, row: Stranger[Form, Painted], site: Site, client: httpx.Client
) -> None:
    headers = {"content-type": row.given.content_type}
    answer = client.post(site.url + path, content=row.given.content, headers=headers)
    assert answer.status_code == (200 if path == "/generate" else 202), answer.text
    request_id = answer.headers["x-request-id"] if path == "/generate" else answer.json()["request_id"]
    state = client.get(f"{site.url}/v1/generations/{request_id}?wait=20").json()
    assert state["status"] == "succeeded", state
    request = state["request"]
    asked = {name: value for name, value in request.items() if name in ("prompt", "seed", "steps", "guidance_scale")}
    assert asked == {"seed": None, "steps": None, "guidance_scale": 5.0, **row.right.fields}
    assert (request["negative_prompt"], request["preset"], request["width"]) == (None, "fast", None)
    assert (None if request["pose"] is None else next(iter(request["pose"]))) == row.right.pose


REFUSED = [
    Stranger(
        "text-in-an-encoding-that-is-not-named",
        "Internet Explorer 11 <form accept-charset=shift_jis>",
        Form(part('name="prompt"', "赤い猫".encode("shift_jis")) + END),
        (422, "UTF-8"),
    ),
    Stranger(
        "plain-text-in-another-encoding",
        "Python 3.12 urlencode(..., encoding='latin-1')",
        Form(b"prompt=une+f%E9e", "application/x-www-form-urlencoded"),
        (422, "UTF-8"),
    ),
    Stranger(
        "a-form-that-was-cut",
        "nginx 1.26 proxy_request_buffering off",
        Form(PROMPT + part('name="pose"; filename="figure.png"', FIGURE)[:-20]),
        (422, "boundary"),
    ),
    Stranger(
        "json-under-curls-own-type",
        "curl 8.5 --data '{...}'",
        Form(b'{"prompt": "a red figure"}', "application/x-www-form-urlencoded"),
        (415, "application/json"),
    ),
    Stranger(
        "a-file-by-name-alone",
        "Chromium 150 <form method=post> with <input type=file>",
        Form(b"prompt=a+red+figure&pose=figure.png", "application/x-www-form-urlencoded"),
        (422, "multipart/form-data"),
    ),
    Stranger(
        "a-file-as-text",
        "curl 8.5 --form 'pose=<figure.png'",
        Form(PROMPT + part('name="pose"', FIGURE) + END),
        (422, "multipart/form-data"),
    ),
    Stranger(
        "two-files-of-a-name",
        "Chromium 150 <input type=file multiple>",
        Form(PROMPT + 2 * part('name="pose"; filename="figure.png"', FIGURE) + END),
        (422, "more than once"),
    ),
    Stranger(
        "a-field-given-twice",
        "PHP 8.3 http_build_query and a form",
        Form(PROMPT + PROMPT + END),
        (422, "more than once"),
    ),
    Stranger(
        "a-number-with-a-comma",
        "LibreOffice 24.2 macro in a German locale",
        Form(PROMPT + part('name="guidance_scale"', b"7,5") + END),
        (422, "guidance_scale"),
    ),
    Stranger(
        "a-text-without-end",
        "Postman 11",
        Form(part('name="prompt"', b"x" * 1_500_000) + END),
        (413, "bytes"),
    ),
    Stranger(
        "a-body-without-its-boundary",
        "axios 0.27 with a content type of its own",
        Form(PROMPT + END, "multipart/form-data"),
        (422, "boundary"),
    ),
    Stranger("yaml", "HTTPie 3.2", Form(b"prompt: a red figure", "application/yaml"), (415, "application/json")),
]


@pytest.mark.parametrize("row", rows(REFUSED))
@pytest.mark.parametrize("path", ["/generate", "/v1/generations"])
def test_a_form_that_cannot_be_honoured_is_refused_with_the_remedy(
    path: str, row: Stranger[Form, tuple[int, str]], site: Site, client: httpx.Client
) -> None:
    headers = {"content-type": row.given.content_type}
    answer = client.post(site.url + path, content=row.given.content, headers=headers)
    status, named = row.right
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in answer.json()["detail"] + answer.json()["remedy"]


def test_a_compressed_body_is_415_and_says_so(site: Site, client: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = client.post(f"{site.url}/v1/generations", content=b"\x1f\x8b", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "content_encoding_unknown")


def test_a_query_in_another_encoding_is_refused(site: Site, client: httpx.Client) -> None:
    answer = client.post(f"{site.url}/generate?prompt=une+f%E9e")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


# --- Behind a prefix ---------------------------------------------------------------------------------------


def test_page_docs_and_calls_work_behind_a_prefix(site: Site, client: httpx.Client, job: str) -> None:
    with behind_a_prefix(site.url) as root:
        for page in ("/", "/docs"):
            answer = client.get(root + page)
            named = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
            assert named
            for address in named:
                assert client.get(urljoin(root + page, address)).status_code == 200, address
        script = client.get(f"{root}/page/docs.js").text
        (document,) = re.findall(r'fetch\("([^"]+)"\)', script)
        assert "/v1/generations" in client.get(urljoin(f"{root}/docs", document)).json()["paths"]
        assert client.get(f"{root}/v1/generations/{job}/images/0").headers["content-type"] == "image/png"


# --- Pages of other origins --------------------------------------------------------------------------------


def preflight(method: str = "POST", *headers: str, origin: str = SHOP) -> dict[str, str]:
    """The headers of a browser's question (Fetch, 4.8)."""
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Sec-Fetch-Site": "cross-site"}
    return {**asked, "Access-Control-Request-Headers": ",".join(headers)} if headers else asked


def vary(answer: httpx.Response) -> set[str]:
    return {name.strip().lower() for name in answer.headers.get("vary", "").split(",")}


@pytest.mark.parametrize(
    "headers",
    [
        ("authorization", "content-type", "idempotency-key"),
        ("x-api-key",),
        ("last-event-id", "cache-control"),
        ("authorization", "traceparent", "tracestate", "baggage"),
        (),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_a_preflight_of_an_allowed_origin_is_answered(
    method: str, headers: tuple[str, ...], site: Site, client: httpx.Client
) -> None:
    answer = client.options(f"{site.keyed_url}/v1/generations", headers=preflight(method, *headers))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert method in answer.headers["access-control-allow-methods"]
    assert set(headers) <= {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert "access-control-allow-credentials" not in answer.headers
    assert 0 < int(answer.headers["access-control-max-age"]) <= 7200
    assert "origin" in vary(answer)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://shop.example.evil", "http://shop.example"])
def test_another_origin_is_told_nothing(origin: str, site: Site, client: httpx.Client) -> None:
    asked = client.options(f"{site.keyed_url}/v1/generations", headers=preflight(origin=origin))
    called = client.get(f"{site.keyed_url}/livez", headers={"Origin": origin})
    for answer in (asked, called):
        assert "access-control-allow-origin" not in answer.headers
        assert "origin" in vary(answer)


def test_without_the_setting_a_preflight_names_it(site: Site, client: httpx.Client) -> None:
    answer = client.options(f"{site.url}/v1/generations", headers=preflight())
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert "DARKROOM_ACCESS__ALLOWED_ORIGINS" in answer.json()["remedy"]
    assert not any(name.startswith("access-control-") for name in answer.headers)


def test_every_answer_can_be_read_by_the_page_and_none_is_kept_for_another(site: Site, client: httpx.Client) -> None:
    """Refusals as well: a page that cannot read the 401 or the 429 knows only that something failed."""
    url, key = site.keyed_url, {"Authorization": f"Bearer {site.key}"}
    here = {"Origin": SHOP, "Sec-Fetch-Site": "cross-site"}
    made = client.post(f"{url}/v1/generations", json={"prompt": "a red figure"}, headers={**here, **key})
    state = f"{url}/v1/generations/{made.json()['request_id']}"
    large = {"content-type": "application/json", **here, **key}
    answers = {
        202: made,
        200: client.get(f"{state}?wait=20", headers={**here, **key}),
        401: client.get(state, headers=here),
        404: client.get(f"{url}/v1/generations/nothing", headers={**here, **key}),
        405: client.put(state, headers={**here, **key}),
        413: client.post(f"{url}/v1/generations", content=b"x" * 11_000_000, headers=large),
        415: client.post(f"{url}/v1/generations", content=b"x", headers={**large, "content-type": "text/xml"}),
        422: client.post(f"{url}/v1/generations", json={"seed": 1}, headers={**here, **key}),
        431: client.get(state, headers={**here, **{f"X-{number}": "x" for number in range(120)}}),
    }
    picture = client.get(f"{state}/images/0", headers={**here, **key})
    events = client.get(f"{state}/events", headers={**here, **key})
    for _ in range(60):
        limited = client.get(f"{url}/v1/fleet", headers={**here, **key})
        if limited.status_code == 429:
            break
    answers[429] = limited
    assert {status: answer.status_code for status, answer in answers.items()} == {one: one for one in answers}
    for answer in (*answers.values(), picture, events):
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert "access-control-allow-credentials" not in answer.headers
        assert "origin" in vary(answer)
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {"location", "retry-after", "etag", "x-request-id", "allow"} <= exposed
    assert picture.headers["etag"]
    assert "event: completion" in events.text
    assert "origin" in vary(client.get(f"{url}/livez")), "an answer that a cache keeps for all"


def test_an_allowed_origin_does_not_get_by_with_the_cookie(site: Site, client: httpx.Client) -> None:
    signed_in = client.post(f"{site.keyed_url}/session", json={"key": site.key})
    cookie = signed_in.headers["set-cookie"].partition(";")[0]
    headers = {"Origin": SHOP, "Sec-Fetch-Site": "cross-site", "Cookie": cookie}
    answer = client.post(f"{site.keyed_url}/v1/generations", json={"prompt": "a red figure"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")


def test_without_keys_other_sites_change_nothing(site: Site, client: httpx.Client) -> None:
    headers = {"Origin": SHOP, "Sec-Fetch-Site": "cross-site"}
    answer = client.post(f"{site.url}/v1/generations", json={"prompt": "a red figure"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert "DARKROOM_ACCESS__ALLOWED_ORIGINS" in answer.json()["remedy"]
