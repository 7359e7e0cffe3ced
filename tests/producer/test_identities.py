"""Proves how keys for the store are found, renewed and given up: on a real store with a real token service.

The store's keys end after a few seconds here, so that renewals happen within a test. What the tests compare is order
and number, never a time.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3

from darkroom.consumer.doctor.doctor import bucket as check_of_bucket
from darkroom.producer.renewing import Lease, Renewing
from darkroom.producer.store.identities import identity_of
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.errors import SettingsError
from darkroom.schemas.settings import S3Settings, load_settings
from tests.autoscale.operations.store_keys import Key, StoreKeys
from tests.integration.fleet import until
from tests.producer.objects_server import Answer, s3_error, serving
from tests.producer.token_store import ROLE, TokenStore, instance_metadata, pod_identity

pytestmark = pytest.mark.stack

WRITTEN = Answer(200, headers={"ETag": '"e"'})
LIFE_S = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenStore]:
    found = TokenStore(tmp_path_factory.mktemp("token-store"), life=f"{LIFE_S}s")
    with found.running():
        yield found


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's is found by Amazon's chain: no variables, no profiles, no instance."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def settings_of(store: TokenStore, **more: object) -> S3Settings:
    values: dict[str, Any] = {"endpoint": store.url, "attempts": 1, "threads": 8}
    return S3Settings.model_validate(values | more)


def web_identity(store: TokenStore, folder: Path, token: str | None = None, **more: object) -> S3Settings:
    file = folder / "token"
    file.write_text(store.issuer.token() if token is None else token)
    values = {"credentials": "web_identity", "web_identity_token_file": file, "role_arn": ROLE}
    return settings_of(store, **(values | more))


def from_environment(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


async def put_and_get(s3: S3Settings, key: str) -> None:
    async with MinioObjects(s3) as objects:
        await objects.put(key, b"content", "text/plain")
        assert await objects.get(key, bytes_max=10) == b"content"
        assert await objects.stat(f"{key}-not") is None
        assert [one async for one in objects.list_keys(key)] == [key]


async def refused(s3: S3Settings) -> StoreUnavailable:
    async with MinioObjects(s3) as objects:
        with pytest.raises(StoreUnavailable) as caught:
            await objects.put("k", b"x", "text/plain")
    return caught.value


# --- Where keys come from --------------------------------------------------------------------------------


async def test_a_token_in_a_file_is_exchanged_for_keys(store: TokenStore, tmp_path: Path) -> None:
    await put_and_get(web_identity(store, tmp_path), "web-identity")


async def test_amazons_chain_takes_a_service_accounts_token(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(store.issuer.token())
    from_environment(
        monkeypatch,
        AWS_WEB_IDENTITY_TOKEN_FILE=tmp_path / "token",
        AWS_ROLE_ARN=ROLE,
        AWS_ENDPOINT_URL_STS=store.url,
    )
    await put_and_get(settings_of(store, credentials="aws"), "irsa")


async def test_amazons_chain_asks_the_pod_identity_agent_with_the_pods_token(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "pod-token"
    token.write_text("first")
    with pod_identity(store, token) as agent:
        from_environment(
            monkeypatch, AWS_CONTAINER_CREDENTIALS_FULL_URI=agent.url, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=token
        )
        await put_and_get(settings_of(store, credentials="aws"), "pod-identity")
        assert agent.answers == 1


async def test_amazons_chain_asks_the_instance(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with instance_metadata(store) as service:
        from_environment(monkeypatch, AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url)
        await put_and_get(settings_of(store, credentials="aws"), "instance")
        assert service.answers == 1


async def test_amazons_chain_is_in_amazons_order(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place that is added comes before those that were there: instance, container, profile, environment."""
    pod_token = tmp_path / "pod-token"
    pod_token.write_text("pod")
    seen = []
    with instance_metadata(store) as instance, pod_identity(store, pod_token) as agent, serving(WRITTEN) as server:
        s3 = server.settings(credentials="aws", access_key=None, secret_key=None)
        profiles = tmp_path / "credentials"
        for variables in (
            {"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url},
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": agent.url,
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": pod_token,
            },
            {"AWS_SHARED_CREDENTIALS_FILE": profiles},
            {"AWS_ACCESS_KEY_ID": "environment", "AWS_SECRET_ACCESS_KEY": "s"},
        ):
            if "AWS_SHARED_CREDENTIALS_FILE" in variables:
                profiles.write_text("[default]\naws_access_key_id = profile\naws_secret_access_key = s\n")
            from_environment(monkeypatch, **variables)
            async with MinioObjects(s3) as objects:
                await objects.put("k", b"x", "text/plain")
            seen.append((instance.answers, agent.answers, _key_of(server.seen[-1].headers["Authorization"])))
    assert [one[:2] for one in seen] == [(1, 0), (1, 1), (1, 1), (1, 1)]
    assert [one[2] for one in seen[2:]] == ["profile", "environment"]


async def test_keys_that_the_settings_have_may_be_temporary(store: TokenStore) -> None:
    keys = store.temporary()
    own = {"access_key": keys["AccessKeyId"], "secret_key": keys["SecretAccessKey"]}
    await put_and_get(settings_of(store, **own, session_token=keys["SessionToken"]), "own-session")
    said = await refused(settings_of(store, **own))
    assert "DARKROOM_S3__ACCESS_KEY" in said.remedy


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"CREDENTIALS": "files"}, "in a file"),
        ({"CREDENTIALS": "files", "ACCESS_KEY": "a", "SECRET_KEY": "s"}, "in a file"),
        ({"CREDENTIALS": "aws", "ACCESS_KEY": "a"}, "unset access_key"),
        ({"CREDENTIALS": "web_identity"}, "web_identity_token_file"),
        ({"ROLE_ARN": "arn:aws:iam::1:role/x"}, "for credentials web_identity"),
        ({"SESSION_TOKEN": "t"}, "needs access_key and secret_key"),
        ({"CREDENTIALS": "iam"}, "CREDENTIALS"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(variables: dict[str, str], says: str) -> None:
    environ = {f"DARKROOM_S3__{name}": value for name, value in variables.items()}
    with pytest.raises(SettingsError, match=says):
        load_settings(environ=environ)


# --- Renewal ---------------------------------------------------------------------------------------------


async def test_nothing_fails_while_keys_are_renewed_under_load_and_one_call_renews_them_for_all(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with instance_metadata(store) as service:
        from_environment(monkeypatch, AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url)
        async with MinioObjects(settings_of(store, credentials="aws")) as objects:
            load = Load(objects)
            async with load:
                await until(lambda: service.answers >= 3, 60, "two renewals")
            assert load.failed == []
            assert await load.missing() == []
        assert load.written > 100
        assert service.answers <= 4, "sixteen callers renew once"


async def test_the_held_keys_serve_while_the_service_is_away_and_are_renewed_when_it_is_back(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with instance_metadata(store) as service:
        from_environment(monkeypatch, AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url)
        async with MinioObjects(settings_of(store, credentials="aws")) as objects:
            async with Load(objects) as load:
                await until(lambda: load.written > 10, 30, "the first puts")
                service.is_away = True
                await until(lambda: "not renewed" in caplog.text, 60, "a renewal that fails")
                before = load.written
                await until(lambda: load.written > before + 10, 30, "puts with the held keys")
                service.is_away = False
                await until(lambda: service.answers >= 2, 60, "the renewal")
            assert load.failed == []


async def test_keys_that_ended_before_their_time_are_renewed_and_the_request_is_signed_again(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a clock that is wrong, or a session that an administrator ended."""
    with instance_metadata(store) as service:
        from_environment(monkeypatch, AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url)
        service.life_s = 3600
        async with MinioObjects(settings_of(store, credentials="aws")) as objects:
            await objects.put("ended", b"1", "text/plain")
            await asyncio.sleep(LIFE_S + 1)  # until the store has let the session end
            gathered = await asyncio.gather(
                *(objects.put(f"ended-{number}", b"2", "text/plain") for number in range(4)),
                objects.get("ended", bytes_max=10),
                objects.stat("ended"),
                objects.delete("ended-not"),
            )
            assert gathered[4] == b"1"
            assert service.answers == 2, "one renewal for all"


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"])
async def test_a_token_that_is_refused_is_renewed_and_the_request_is_signed_again_with_all_its_headers(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    with instance_metadata(store) as service, serving(s3_error(400, code), WRITTEN) as server:
        from_environment(monkeypatch, AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url)
        async with MinioObjects(server.settings(credentials="aws", access_key=None, secret_key=None)) as objects:
            assert await objects.put_if_absent("k", b"x", "text/plain") is True
    first, second = server.seen
    assert first.headers["x-amz-security-token"] != second.headers["x-amz-security-token"]
    assert first.headers["If-None-Match"] == second.headers["If-None-Match"] == "*"
    assert first.body == second.body == b"x"


async def test_a_store_that_refuses_all_keys_makes_no_storm_of_renewals(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with instance_metadata(store) as service, serving(s3_error(403, "InvalidAccessKeyId")) as server:
        from_environment(monkeypatch, AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url)
        async with MinioObjects(server.settings(credentials="aws", access_key=None, secret_key=None)) as objects:
            puts = [objects.put("k", b"x", "text/plain") for _ in range(20)]
            failed = await asyncio.gather(*puts, return_exceptions=True)
    assert all(isinstance(one, StoreUnavailable) for one in failed)
    assert service.answers <= 2
    assert "DARKROOM_S3__CREDENTIALS=aws" in str(failed[-1])


async def test_no_address_is_signed_beyond_the_end_of_its_keys(store: TokenStore, tmp_path: Path) -> None:
    async with MinioObjects(web_identity(store, tmp_path)) as objects:
        await objects.put("shown", b"content", "text/plain")
        url = objects.presigned_get("shown", valid_s=3600)
        assert urllib3.request("GET", url).data == b"content"
    query = parse_qs(urlsplit(url).query)
    assert "X-Amz-Security-Token" in query
    assert 1 <= int(query["X-Amz-Expires"][0]) <= LIFE_S


async def test_an_address_is_not_waited_for_where_no_keys_are_held(store: TokenStore, tmp_path: Path) -> None:
    """Addresses are signed on the event loop."""
    async with MinioObjects(web_identity(store, tmp_path)) as objects:
        with pytest.raises(StoreUnavailable, match="No keys came for the object store"):
            objects.presigned_get("shown", valid_s=60)
        await objects.put("shown", b"content", "text/plain")
        assert objects.presigned_get("shown", valid_s=60)


# --- Services that fail ----------------------------------------------------------------------------------


async def test_a_service_that_hangs_is_named_and_holds_nobody_for_ever(store: TokenStore, tmp_path: Path) -> None:
    goes_on = threading.Event()
    with serving(Answer(200, before=lambda: goes_on.wait(60))) as service:
        s3 = web_identity(store, tmp_path, sts_endpoint=service.url)
        try:
            (found, *_) = await check_of_bucket(load_settings(overrides={"s3": s3.model_dump(exclude_unset=True)}))
        finally:
            goes_on.set()
    assert not found.passed
    assert re.search(rf"token service at {service.url} did not answer with keys \(ReadTimeout", found.says)
    assert "DARKROOM_S3__STS_ENDPOINT" in (found.remedy or "")


@pytest.mark.parametrize(
    ("token", "says", "remedy"),
    [
        (lambda store: store.issuer.token(iss="https://elsewhere"), "issuer: https://elsewhere", "issuer"),
        (lambda store: store.issuer.token(aud="others"), "audience", "audience"),
        (lambda store: store.issuer.token(life_s=-600), "ExpiredTokenException", "whatever writes it has stopped"),
        (lambda store: store.issuer.token(nbf=4_000_000_000), "not valid yet", "clock"),
        (lambda store: store.issuer.token()[:200], "refuses", "written whole"),
        (lambda _: "", "being written", "what writes it"),
    ],
)
async def test_a_token_that_is_no_good_is_named_with_its_remedy_and_a_good_one_ends_that(
    store: TokenStore, tmp_path: Path, token: Callable[[TokenStore], str], says: str, remedy: str
) -> None:
    s3 = web_identity(store, tmp_path, token(store))
    async with MinioObjects(s3) as objects:
        with pytest.raises(StoreUnavailable) as caught:
            await objects.put("k", b"x", "text/plain")
        assert says in caught.value.what
        assert remedy in caught.value.remedy
        (tmp_path / "token").write_text(store.issuer.token())

        async def is_written() -> bool:
            try:
                await objects.put("k", b"x", "text/plain")
            except StoreUnavailable:
                return False
            return True

        async with asyncio.timeout(30):
            while not await is_written():
                await asyncio.sleep(0.1)


async def test_a_machine_without_any_identity_is_told_what_would_give_it_one(store: TokenStore) -> None:
    said = await refused(settings_of(store, credentials="aws"))
    assert "Amazon's chain found none" in said.what
    assert "service account" in said.remedy


async def test_keys_that_ended_before_they_came_tell_of_a_wrong_clock(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with instance_metadata(store) as service:
        from_environment(monkeypatch, AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url)
        service.life_s = -60
        said = await refused(settings_of(store, credentials="aws"))
    assert "by this machine's clock" in said.what
    assert "NTP" in said.remedy


async def test_no_token_is_in_an_address_or_an_error(store: TokenStore, tmp_path: Path) -> None:
    with serving(s3_error(403, "AccessDenied")) as service:
        s3 = web_identity(store, tmp_path, sts_endpoint=service.url)
        said = await refused(s3)
    token = (tmp_path / "token").read_text()
    assert all("?" not in seen.path for seen in service.seen)
    assert token not in f"{said!r} {said}"


# --- Files -----------------------------------------------------------------------------------------------


async def test_nothing_is_lost_while_keys_in_files_are_rotated_under_load(store: TokenStore, tmp_path: Path) -> None:
    keys = StoreKeys(store.ports)
    key = keys.make("rotated-0")
    access, secret = tmp_path / "access", tmp_path / "secret"
    write(access, key.access)
    write(secret, key.secret)
    async with MinioObjects(files(store, access, secret)) as objects, Load(objects) as load:
        for number in range(1, 4):
            await until(lambda seen=load.written: load.written > seen + 10, 30, "puts")  # type: ignore[misc]
            newer = await asyncio.to_thread(keys.make, f"rotated-{number}")
            write(access, newer.access)
            write(secret, newer.secret)
            await asyncio.to_thread(keys.revoke, key)
            key = newer
        await until(lambda seen=load.written: load.written > seen + 10, 30, "puts")  # type: ignore[misc]
        await load.stop()
        assert load.failed == []
        assert await load.missing() == []


async def test_a_key_file_that_is_half_written_is_named_and_read_again(store: TokenStore, tmp_path: Path) -> None:
    key: Key = StoreKeys(store.ports).make("halved")
    access, secret = tmp_path / "access", tmp_path / "secret"
    write(access, key.access)
    write(secret, key.secret)
    async with MinioObjects(files(store, access, secret)) as objects:
        await objects.put("k", b"1", "text/plain")
        write(secret, "")
        await objects.put("k", b"2", "text/plain")
        write(secret, key.secret[:7])
        with pytest.raises(StoreUnavailable, match=r"signature is wrong.*written whole"):
            await objects.put("k", b"3", "text/plain")
        write(secret, key.secret)
        await objects.put("k", b"4", "text/plain")
        assert await objects.get("k", bytes_max=10) == b"4"


def files(store: TokenStore, access: Path, secret: Path) -> S3Settings:
    environ = {
        "DARKROOM_S3__CREDENTIALS": "files",
        "DARKROOM_S3__ENDPOINT": store.url,
        "DARKROOM_S3__ACCESS_KEY_FILE": str(access),
        "DARKROOM_S3__SECRET_KEY_FILE": str(secret),
        "DARKROOM_S3__ATTEMPTS": "1",
    }
    return load_settings(environ=environ).s3


def write(file: Path, content: str) -> None:
    """As certificate and secret managers do: the new file takes the old one's place at once."""
    new = file.with_suffix(".new")
    new.write_text(content)
    new.replace(file)


# --- The holder itself -----------------------------------------------------------------------------------


def test_a_fetch_is_one_for_many_threads_and_whatever_it_raises_is_told_as_a_sentence() -> None:
    begun, goes_on, fetched = threading.Event(), threading.Event(), []

    def fetch(anew: bool) -> Lease[str]:
        fetched.append(anew)
        begun.set()
        goes_on.wait(30)
        raise SystemExit("a provider's own idea")

    holder = Renewing("test", fetch, failure=lambda error: StoreUnavailable(f"no keys: {error}"))
    said: list[str] = []

    def ask() -> None:
        try:
            holder.current()
        except StoreUnavailable as error:
            said.append(error.what)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for one in threads:
        one.start()
    begun.wait(30)
    with pytest.raises(StoreUnavailable):
        holder.held()
    goes_on.set()
    for one in threads:
        one.join(30)
    assert fetched == [False]
    assert len(said) == 20
    assert all("a provider's own idea" in one for one in said)


def test_nobody_waits_for_a_renewal_that_hangs_while_what_is_held_is_good() -> None:
    clock, hangs, goes_on = [1000.0], threading.Event(), threading.Event()

    def fetch(anew: bool) -> Lease[str]:
        assert not anew
        if clock[0] == 1000.0:
            return Lease("first", 1900.0)
        hangs.set()
        goes_on.wait(30)
        return Lease("second", 4000.0)

    holder = Renewing("test", fetch, failure=lambda error: StoreUnavailable(str(error)), clock=lambda: clock[0])
    assert holder.current() == "first"
    clock[0] = 1599.0  # 301 s before the end: too early
    assert holder.current() == "first"
    assert not hangs.is_set()
    clock[0] = 1601.0
    assert [holder.current() for _ in range(100)] == ["first"] * 100, "they return while the fetch hangs"
    assert hangs.wait(30)
    assert holder.renew("first") is not None  # the fetch that is under way is the one for them too
    goes_on.set()
    assert holder.renewed("first")
    assert holder.held() == "second"


def test_a_store_without_keys_has_no_identity() -> None:
    assert identity_of(S3Settings()) is None


class Load:
    """Sixteen writers of new objects, each with an outcome that only the first may write."""

    def __init__(self, objects: MinioObjects) -> None:
        self._objects = objects
        self._stopping = False
        self.written = 0
        self.failed: list[str] = []
        self._keys: list[str] = []

    async def __aenter__(self) -> Load:
        self._writers = [asyncio.create_task(self._write(number)) for number in range(16)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._writers)

    async def missing(self) -> list[str]:
        """The objects that were said to be written and are not there."""
        prefix = f"load-{id(self)}/"
        there = {key async for key in self._objects.list_keys(prefix)}
        return [key for key in self._keys if key not in there]

    async def _write(self, writer: int) -> None:
        number = 0
        while not self._stopping:
            key, number = f"load-{id(self)}/{writer}-{number}", number + 1
            try:
                assert await self._objects.put_if_absent(key, b"x" * 100, "text/plain")
                assert await self._objects.get(key, bytes_max=100) is not None
            except (StoreUnavailable, AssertionError) as error:
                self.failed.append(str(error))
            else:
                self.written += 1
                self._keys.append(key)


def _key_of(authorization: str) -> str:
    found = re.search("Credential=([^/]+)/", authorization)
    assert found is not None
    return found[1]
