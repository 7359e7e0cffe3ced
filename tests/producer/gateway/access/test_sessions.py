"""Proves that signing in gives a cookie that only the page can use, for as long as its key is good, and nobody else."""

from __future__ import annotations

import base64
import json
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from darkroom.producer.gateway.access.cookies import CookieSigner
from darkroom.producer.gateway.access.keys import ApiKey, new_key
from tests.producer.gateway.access.serving import ELSEWHERE, app_of, calling, settings_with, write_keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "s" * 32
SAME = {"Sec-Fetch-Site": "same-origin"}


class Page:
    """A browser on the gateway's page."""

    def __init__(self, folder: Path, base: str = "http://pictures.example", **access: object) -> None:
        self.path = folder / "keys.jsonl"
        self.text, self.key = new_key("studio", ["submit", "read"], now=NOW)
        write_keys(self.path, self.key.line())
        self.app = app_of(settings_with(keys_file=self.path, reload_s=0, session_secret=SECRET, **access))
        self.client = calling(self.app, ELSEWHERE, base)

    async def sign_in(self, **headers: str) -> httpx.Response:
        return await self.client.post("/session", json={"key": self.text}, headers={**SAME, **headers})

    def forge(self, value: str) -> None:
        self.client.cookies.clear()
        self.client.cookies.set("darkroom_session", value)

    async def read(self) -> int:
        return (await self.client.get("/jobs")).status_code


async def test_signing_in_and_out(tmp_path: Path) -> None:
    page = Page(tmp_path)
    nobody = {"tenant": None, "name": None, "scopes": [], "signed_in": False, "needs_key": True}
    known = {
        "tenant": "studio",
        "name": page.key.id,
        "scopes": ["read", "submit"],
        "signed_in": True,
        "needs_key": False,
    }
    assert (await page.client.get("/session")).json() == nobody
    assert await page.read() == 401
    answer = await page.sign_in()
    assert (answer.status_code, answer.json()) == (200, known)
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert page.text.split("_", 2)[2] not in cookie, "the cookie never holds the key"
    assert (await page.client.get("/session")).json() == known
    assert await page.read() == 200
    assert (await page.client.delete("/session", headers=SAME)).json() == nobody
    assert (await page.client.get("/session")).json() == nobody


async def test_a_form_signs_in_as_well(tmp_path: Path) -> None:
    page = Page(tmp_path)
    assert (await page.client.post("/session", data={"key": page.text}, headers=SAME)).status_code == 200
    assert await page.read() == 200


@pytest.mark.parametrize("content", [b"", b"[]", b'{"key": 7}', b"\xff", b'{"key": "' + b"x" * 9000, b"[" * 4000])
async def test_what_holds_no_key_signs_nobody_in(tmp_path: Path, content: bytes) -> None:
    answer = await Page(tmp_path).client.post("/session", content=content, headers=SAME)
    assert (answer.status_code, answer.json()["code"]) == (401, "credential_invalid")


async def test_over_https_the_cookie_goes_over_https_alone(tmp_path: Path) -> None:
    cookie = (await Page(tmp_path, base="https://pictures.example").sign_in()).headers["set-cookie"]
    assert cookie.startswith("__Host-darkroom_session=")
    assert "Secure" in cookie
    assert "Secure" not in (await Page(tmp_path).sign_in()).headers["set-cookie"]
    assert "Secure" in (await Page(tmp_path, cookie_secure="on").sign_in()).headers["set-cookie"]


async def test_a_cookie_of_a_revoked_key_is_worth_nothing(tmp_path: Path) -> None:
    page = Page(tmp_path)
    await page.sign_in()
    assert await page.read() == 200
    write_keys(page.path, page.key.revoked().line())
    assert await page.read() == 401
    write_keys(page.path, "")
    assert await page.read() == 401


async def test_a_cookie_does_not_open_another_key_of_the_same_id(tmp_path: Path) -> None:
    page = Page(tmp_path)
    await page.sign_in()
    _, other = new_key("studio", ["submit", "read"], now=NOW)
    write_keys(page.path, ApiKey(page.key.id, "studio", other.scopes, other.sha256, NOW).line())
    assert await page.read() == 401


async def test_a_cookie_ends_with_its_time(tmp_path: Path) -> None:
    page = Page(tmp_path)
    signer = CookieSigner(SECRET.encode())
    page.forge(signer.sign(page.key, expires_at=time.time() + 60))
    assert await page.read() == 200
    page.forge(signer.sign(page.key, expires_at=time.time() - 1))
    assert await page.read() == 401


def raised(value: str) -> str:
    """Return the same cookie, with an end that never comes."""
    body, signature = value.rsplit(".", 1)
    *said, _end = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    body = base64.urlsafe_b64encode(json.dumps([*said, 9_999_999_999]).encode()).decode().rstrip("=")
    return f"{body}.{signature}"


@pytest.mark.parametrize("attack", ["another end", "another secret", "no signature", "cut", "long", "nonsense", "bomb"])
async def test_a_tampered_cookie_is_worth_nothing(tmp_path: Path, attack: str) -> None:
    page = Page(tmp_path)
    good = CookieSigner(SECRET.encode()).sign(page.key, expires_at=time.time() + 60)
    page.forge(good)
    assert await page.read() == 200
    page.forge(
        {
            "another end": raised(good),
            "another secret": CookieSigner(b"x" * 32).sign(page.key, expires_at=time.time() + 60),
            "no signature": good.rpartition(".")[0] + ".",
            "cut": good[:-1],
            "long": good + "A" * 2000,
            "nonsense": "1..",
            "bomb": "." + base64.urlsafe_b64encode(zlib.compress(b" " * 10_000_000)).decode()[:900],
        }[attack]
    )
    assert await page.read() == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (SAME, 200),
        ({"Origin": "http://pictures.example"}, 200),
        ({"Origin": "https://pictures.example"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://pictures.example"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({}, 403),
    ],
)
async def test_a_change_by_cookie_has_to_come_from_the_page(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    page = Page(tmp_path)
    await page.sign_in()
    answer = await page.client.post("/jobs", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "cross_site"
    assert (await page.client.post("/jobs", headers={**headers, "X-API-Key": page.text})).status_code == 200, (
        "a key in a header is no cookie: other sites' pages do not have it"
    )


async def test_another_site_can_neither_sign_in_nor_out(tmp_path: Path) -> None:
    page = Page(tmp_path)
    for method in ("POST", "DELETE"):
        answer = await page.client.request(
            method, "/session", content=json.dumps({"key": page.text}), headers={"Origin": "https://evil.example"}
        )
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


async def test_a_bad_key_is_not_made_up_for_by_a_good_cookie(tmp_path: Path) -> None:
    page = Page(tmp_path)
    await page.sign_in()
    assert (await page.client.get("/jobs", headers={"X-API-Key": "dk_abcd_x"})).status_code == 401


async def test_attempts_to_sign_in_are_bounded_by_address(tmp_path: Path) -> None:
    page = Page(tmp_path, sign_ins_per_minute_max=3)
    bad = [(await page.client.post("/session", json={"key": "dk_x"}, headers=SAME)).status_code for _ in range(5)]
    assert bad == [401, 401, 401, 429, 429]
    limited = await page.sign_in()
    assert (limited.status_code, limited.json()["code"]) == (429, "too_many_sign_ins")
    assert 1 <= int(limited.headers["retry-after"]) <= 61
    async with calling(page.app, ("203.0.113.9", 1)) as other:
        assert (await other.post("/session", json={"key": page.text}, headers=SAME)).status_code == 200
    async with calling(page.app, ("2001:db8::1", 1)) as first, calling(page.app, ("2001:db8::2", 1)) as second:
        tried = [await one.post("/session", json={}, headers=SAME) for one in (first, second, first, second)]
        assert [answer.status_code for answer in tried] == [401, 401, 401, 429], "a network is one address"


async def test_two_replicas_with_one_secret_know_each_others_sessions(tmp_path: Path) -> None:
    page = Page(tmp_path)
    cookie = (await page.sign_in()).cookies["darkroom_session"]
    for secret, status in ((SECRET, 200), ("t" * 32, 401), (None, 401)):
        other = app_of(settings_with(keys_file=page.path, session_secret=secret))
        async with calling(other, ELSEWHERE) as client:
            client.cookies.set("darkroom_session", cookie)
            assert (await client.get("/jobs")).status_code == status


# --- Without keys and without a provider ----------------------------------------------------------------


@pytest.mark.parametrize("client", [("127.0.0.1", 1), ("127.1.2.3", 1), ("::1", 1), ("::ffff:127.0.0.1", 1)])
@pytest.mark.parametrize("base", ["http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080"])
async def test_this_machine_is_the_default_tenant(client: tuple[str, int], base: str) -> None:
    async with calling(app_of(settings_with()), client, base) as here:
        answer = await here.post("/jobs")
        assert (answer.status_code, answer.json()["tenant"]) == (200, "default")
        assert (await here.get("/session")).json() == {
            "tenant": "default",
            "name": "loopback",
            "scopes": ["cancel", "erase", "read", "submit"],
            "signed_in": False,
            "needs_key": False,
        }


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (ELSEWHERE, {}),
        (("::ffff:198.51.100.7", 1), {}),
        (("", 0), {}),
        (("127.0.0.1", 1), {"Host": "rebound.example"}),
        (("127.0.0.1", 1), {"Host": "localhost.evil.example"}),
        (("127.0.0.1", 1), {"Host": ""}),
        (("127.0.0.1", 1), {"Host": "["}),
        (("127.0.0.1", 1), {"X-Forwarded-For": "127.0.0.1"}),
        (("127.0.0.1", 1), {"Forwarded": "for=127.0.0.1"}),
    ],
)
async def test_elsewhere_rebound_names_and_proxies_are_403_with_the_remedy(
    client: tuple[str, int], headers: dict[str, str]
) -> None:
    async with calling(app_of(settings_with()), client) as there:
        answer = await there.get("/jobs", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "loopback_only")
        assert "DARKROOM_ACCESS__KEYS_FILE" in answer.json()["remedy"]


async def test_other_sites_pages_cannot_use_a_local_browser() -> None:
    async with calling(app_of(settings_with())) as here:
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await here.post("/jobs", headers=headers)).json()["code"] == "cross_site"
        assert (await here.post("/jobs", headers={"Origin": "http://localhost"})).status_code == 200
