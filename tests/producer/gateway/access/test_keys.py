"""Proves that keys open what they should, are kept as hashes alone, and come and go with their file."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry

from darkroom.producer.gateway.access.assembly import gatekeeper_of
from darkroom.producer.gateway.access.cookies import CookieSigner
from darkroom.producer.gateway.access.keys import KeyRing, new_key, parse_keys
from darkroom.producer.gateway.metrics import AccessMetrics
from darkroom.producer.gateway.principal import Scope
from darkroom.schemas.errors import SettingsError
from tests.producer.gateway.access.serving import ELSEWHERE, app_of, calling, settings_with, write_keys

NOW = datetime(2030, 6, 1, tzinfo=UTC)


def test_a_key_is_256_random_bits_and_only_its_hash_is_kept() -> None:
    text, key = new_key("studio", ["read"], now=NOW)
    _, key_id, secret = text.split("_", 2)
    assert (key_id, len(secret)) == (key.id, 43)
    assert secret not in key.line()
    assert new_key("studio", ["read"], now=NOW)[0] != text


def test_a_key_opens_until_it_expires_or_is_revoked() -> None:
    text, key = new_key("studio", ["read"], now=NOW, expires=NOW + timedelta(days=1))
    assert KeyRing([key]).opened_by(text, NOW) == key
    assert KeyRing([key]).opened_by(text, NOW + timedelta(days=2)) is None
    assert KeyRing([key.revoked()]).opened_by(text, NOW) is None


@pytest.mark.parametrize("change", ["last letter", "another's secret", "unknown id", "longer", "empty", "surrogate"])
def test_what_is_nearly_a_key_opens_nothing(change: str) -> None:
    text, key = new_key("studio", ["read"], now=NOW)
    other, other_key = new_key("other", ["read"], now=NOW)
    tried = {
        "last letter": text[:-1] + ("A" if text[-1] != "A" else "B"),
        "another's secret": f"dk_{key.id}_{other.split('_', 2)[2]}",
        "unknown id": f"dk_zzzz_{text.split('_', 2)[2]}",
        "longer": text + "x",
        "empty": "",
        "surrogate": "dk_\udcff",
    }[change]
    assert KeyRing([key, other_key]).opened_by(tried, NOW) is None


def test_a_file_is_read_as_it_was_written() -> None:
    _, first = new_key("studio", Scope, now=NOW, expires=NOW + timedelta(days=1))
    _, second = new_key("studio", ["read"], now=NOW)
    text = first.line() + "\n" + second.revoked().line()
    assert list(parse_keys(text).keys.values()) == [first, second.revoked()]


def entry(**change: object) -> str:
    good = {"id": "abcd", "tenant": "t", "scopes": ["read"], "sha256": "0" * 64, "created": "2030-01-01T00:00:00Z"}
    return json.dumps({**good, **change})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2"),
        ("[]", "not an object"),
        ("[" * 100_000, "line 2"),
        (entry(tenant="../x"), "tenant"),
        (entry(scopes=["admin"]), "scopes"),
        (entry(scopes=[]), "scopes"),
        (entry(scopes=[["read"]]), "scopes"),
        (entry(sha256="x"), "sha256"),
        (entry(created="yesterday"), "line 2"),
        (entry(expires="2030-01-01T00:00:00"), "zone"),
        (entry(disabled="no"), "disabled"),
        (entry(key="secret"), "key"),
        (entry(id="abce"), "repeats"),
    ],
)
def test_a_line_that_is_no_key_is_named(line: str, says: str) -> None:
    with pytest.raises(ValueError, match="line 2") as raised:
        parse_keys(entry(id="abce") + "\n" + line)
    assert says in str(raised.value)


# --- Over HTTP ------------------------------------------------------------------------------------------


async def test_a_key_opens_what_its_scopes_say_and_its_tenant_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    text, key = new_key("studio", ["read"], now=NOW)
    write_keys(path, key.line())
    app = app_of(settings_with(keys_file=path))
    async with calling(app, ELSEWHERE) as client:
        for headers in ({"Authorization": f"Bearer {text}"}, {"authorization": f"bearer {text}"}, {"X-API-Key": text}):
            answer = await client.get("/jobs", headers=headers)
            assert answer.status_code == 200
            assert answer.json() == {"tenant": "studio", "name": key.id, "bytes": 0}
        refused = await client.post("/jobs", headers={"X-API-Key": text})
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "dk_abcd_" + "A" * 43},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"X-API-Key": "dk_\u00ff".encode("latin-1")},
    ],
)
async def test_nobody_is_401_with_the_way_in(tmp_path: Path, headers: dict[str, str]) -> None:
    path = tmp_path / "keys.jsonl"
    write_keys(path, new_key("studio", ["read"], now=NOW)[1].line())
    async with calling(app_of(settings_with(keys_file=path))) as client:
        answer = await client.get("/jobs", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["remedy"]


async def test_keys_come_and_go_with_their_file_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    old_text, old = new_key("studio", ["read"], now=NOW)
    new_text, new = new_key("studio", ["read"], now=NOW)
    write_keys(path, old.line())
    registry = CollectorRegistry()
    async with calling(app_of(settings_with(keys_file=path, reload_s=0), registry)) as client:

        async def status(text: str) -> int:
            return (await client.get("/jobs", headers={"X-API-Key": text})).status_code

        assert (await status(old_text), await status(new_text)) == (200, 401)
        write_keys(path, old.line(), new.line())
        assert (await status(old_text), await status(new_text)) == (200, 200)
        write_keys(path, old.revoked().line(), new.line())
        assert (await status(old_text), await status(new_text)) == (401, 200)
        write_keys(path, "{broken")
        assert (await status(old_text), await status(new_text)) == (401, 200)
        assert registry.get_sample_value("darkroom_access_file_failures_total", {"file": "keys"}) == 1


def test_a_keys_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"keys\.jsonl"):
        gatekeeper_of(settings_with(keys_file=tmp_path / "keys.jsonl"), CookieSigner(b"x" * 32), AccessMetrics())


# --- The command ----------------------------------------------------------------------------------------


def command(*arguments: str) -> Result:
    import darkroom

    return CliRunner().invoke(darkroom.main, ["keys", *arguments])


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    made = json.loads(
        command(
            "new", "--tenant", "studio", "--scopes", "submit,read", "--expires-days", "9", "--file", str(path), "--json"
        ).stdout
    )
    other = command("new", "--tenant", "other", "--file", str(path)).stdout.strip()
    assert path.stat().st_mode & 0o777 == 0o600
    ring = parse_keys(path.read_text())
    key = ring.opened_by(made["key"], datetime.now(UTC))
    assert key is not None
    assert (key.tenant, key.scopes, key.id) == ("studio", {"submit", "read"}, made["id"])
    assert key.expires is not None
    assert ring.opened_by(other, datetime.now(UTC)) is not None
    assert made["key"] not in path.read_text()

    assert "revoked" not in command("list", "--file", str(path)).stdout
    assert command("revoke", made["id"], "--file", str(path)).exit_code == 0
    listed = [json.loads(line) for line in command("list", "--file", str(path), "--json").stdout.splitlines()]
    assert [(one["tenant"], one["state"]) for one in listed] == [("studio", "revoked"), ("other", "active")]
    assert all("sha256" not in one for one in listed)
    assert parse_keys(path.read_text()).opened_by(made["key"], datetime.now(UTC)) is None
    assert sorted(one.name for one in tmp_path.iterdir()) == [".keys.jsonl.lock", "keys.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("new", "--tenant", "../x"), 2),
        (("new", "--tenant", "t", "--scopes", "admin"), 2),
        (("new",), 2),
        (("revoke", "nobody"), 1),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    done = command(*arguments, "--file", str(tmp_path / "keys.jsonl"))
    assert done.exit_code == code
    assert done.stderr


def test_the_command_loads_nothing_of_the_gateway() -> None:
    import subprocess
    import sys

    program = "import sys, darkroom.producer.cli.keys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint({"fastapi", "starlette", "jwt", "httpx", "limits", "redis", "pydantic"})
