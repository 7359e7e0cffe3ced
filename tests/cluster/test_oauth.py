"""Proves the log-in by OAUTHBEARER: on a real broker that checks tokens by the issuer's published keys.

Sessions and tokens end after seconds here, and the broker allows no clock skew, so that renewals happen within a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.inference.engine import LaneEngine
from darkroom.producer.kafka.connection import KafkaUnavailable, administering
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.errors import SettingsError
from darkroom.schemas.events.completion import Status
from darkroom.schemas.rights import Role, rights_of
from darkroom.schemas.settings import Settings, load_settings
from tests.cluster.brokers import APP, Brokers
from tests.cluster.rights import grant
from tests.cluster.test_refusals import request
from tests.integration.by_hand import CountingDevice, admin, until_no_lag
from tests.integration.certificates import Authority
from tests.integration.fleet import until
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on
from tests.producer.issuer import AUDIENCE, CLIENT, SECRET, Issuer

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

SESSION_MS = 3_000
LIFE_S = 6
LONGER_LIFE_S = 12
"""Renewed four seconds before its end: a machine that is busy with other tests does not let it end."""
UNREADY_LOOKS_MAX = 10
"""A second's worth: a token that ended all the same is refused once, and fetched anew at once."""
MODULES = "org.apache.kafka.common.security.oauthbearer"
LISTENER = "listener.name.sasl_plaintext.oauthbearer.sasl"


@pytest.fixture(scope="module")
def running_issuer() -> Iterator[Issuer]:
    issuer = Issuer(APP)
    with issuer.serving():
        yield issuer


@pytest.fixture
def issuer(running_issuer: Issuer) -> Iterator[Issuer]:
    """The issuer the broker knows, and at the end as it was at the beginning."""
    yield running_issuer
    running_issuer.claims, running_issuer.life_s, running_issuer.is_away = {}, 3600.0, False
    running_issuer.tells_life = True
    running_issuer.goes_on.set()


@pytest.fixture(scope="module")
def brokers(running_issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    properties = {
        "connections.max.reauth.ms": str(SESSION_MS),
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        f"{LISTENER}.jaas.config": f"{MODULES}.OAuthBearerLoginModule required;",
        f"{LISTENER}.server.callback.handler.class": f"{MODULES}.OAuthBearerValidatorCallbackHandler",
        "sasl.oauthbearer.jwks.endpoint.url": running_issuer.keys_url,
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": running_issuer.url,
        "sasl.oauthbearer.clock.skew.seconds": "0",
    }
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={running_issuer.keys_url}"
    folder = tmp_path_factory.mktemp("brokers")
    with Brokers(folder, properties=properties, users_log_in=True, jvm_options=[allowed]) as started:
        yield started


@pytest.fixture
async def administrator(stack: Stack, brokers: Brokers) -> Settings:
    """Who may do everything, in a deployment whose user may do what workers may."""
    environment = {**stack.environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers}
    settings = deployment_on(environment)(topics__requests_partitions=2)
    await ensure_topics(settings)
    async with admin(settings) as granting:
        for right in rights_of(Role.WORKER, prefix=settings.topics.prefix, group_id=settings.kafka.group_id):
            await grant(granting, APP, right)
    return settings


def variables(issuer: Issuer, brokers: Brokers, **changes: str | None) -> dict[str, str]:
    """How a client logs in, with `changes`; None leaves one out."""
    found: dict[str, str | None] = {
        "BOOTSTRAP_SERVERS": brokers.users_bootstrap_servers,
        "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "SASL_MECHANISM": "OAUTHBEARER",
        "OAUTH_ISSUER": issuer.url,
        "OAUTH_CLIENT_ID": CLIENT,
        "OAUTH_CLIENT_SECRET": SECRET,
        "SESSION_TIMEOUT_MS": "6000",
        "REQUEST_TIMEOUT_MS": "9000",
    }
    return {f"DARKROOM_KAFKA__{name}": value for name, value in (found | changes).items() if value is not None}


def worker_settings(
    stack: Stack, issuer: Issuer, brokers: Brokers, administrator: Settings, **changes: str | None
) -> Settings:
    return deployment_on({**stack.environment, **variables(issuer, brokers, **changes)})(
        topics__prefix=administrator.topics.prefix,
        kafka__group_id=administrator.kafka.group_id,
        s3__bucket=administrator.s3.bucket,
        topics__requests_partitions=2,
    )


async def is_let_in(environment: dict[str, str]) -> None:
    """Connect once more with these variables. Raises `KafkaUnavailable`."""
    async with administering(load_settings(environ=environment).kafka, "asking for topics") as one:
        await one.list_topics()


async def test_a_worker_outlives_sessions_and_tokens(
    stack: Stack, issuer: Issuer, brokers: Brokers, administrator: Settings
) -> None:
    issuer.life_s = LONGER_LIFE_S
    begun = issuer.answers
    settings = worker_settings(stack, issuer, brokers, administrator, OAUTH_SCOPE="kafka")
    engine = LaneEngine(CountingDevice(), rows_max=8)
    places: set[tuple[int, int]] = set()
    unready: list[tuple[str, ...]] = []
    async with running_worker(settings, engine) as worker, Producer(administrator) as producer:
        await producer.answers({await producer.put(request())})
        await until(lambda: worker._ready().well, 30, "readiness")
        while issuer.answers < begun + 3:
            places.add(await producer.put(request()))
            await asyncio.sleep(0.1)
            if not (state := worker._ready()).well:
                unready.append(tuple(state.reasons))
        answers = await producer.answers(places)
        await until_no_lag(administrator)
        await until(lambda: worker._ready().well, 30, "readiness at the end")
    assert {one.status for place in places for one in answers[place]} == {Status.SUCCEEDED}
    assert all(len(answers[place]) == 1 for place in places)
    assert len(unready) <= UNREADY_LOOKS_MAX, unready


async def test_a_token_service_that_is_away_ends_no_client_and_is_named(
    stack: Stack, issuer: Issuer, brokers: Brokers, administrator: Settings
) -> None:
    issuer.life_s = LIFE_S
    settings = worker_settings(stack, issuer, brokers, administrator, OAUTH_TOKEN_URL=issuer.token_url)
    engine = LaneEngine(CountingDevice(), rows_max=8)
    async with running_worker(settings, engine) as worker, Producer(administrator) as producer:
        await producer.answers({await producer.put(request())})
        issuer.is_away = True
        await until(
            lambda: any("HTTP 503" in one and issuer.token_url in one for one in worker._ready().reasons),
            90,
            "readiness to name the token service",
        )
        places = {await producer.put(request()) for _ in range(4)}
        issuer.is_away = False
        answers = await producer.answers(places)
        assert {one.status for place in places for one in answers[place]} == {Status.SUCCEEDED}
        await until_no_lag(administrator)
        await until(lambda: worker._ready().well, 60, "readiness to come back")


async def test_a_token_that_the_broker_refuses_is_fetched_anew_before_it_ends(
    stack: Stack, issuer: Issuer, brokers: Brokers, administrator: Settings
) -> None:
    """As after an administrator has corrected the audience: the wrong token would be good for an hour."""
    settings = worker_settings(stack, issuer, brokers, administrator, OAUTH_SCOPE=None)
    engine = LaneEngine(CountingDevice(), rows_max=8)
    issuer.life_s = LIFE_S
    async with running_worker(settings, engine) as worker, Producer(administrator) as producer:
        await producer.answers({await producer.put(request())})
        assert worker._ready().well
        issuer.life_s, issuer.claims = 3600, {"aud": "others"}
        await until(lambda: any("invalid_token" in one for one in worker._ready().reasons), 90, "the refusal")
        issuer.claims = {}
        place = await producer.put(request())
        answers = await producer.answers({place})
        assert [one.status for one in answers[place]] == [Status.SUCCEEDED]
        await until(lambda: worker._ready().well, 60, "readiness to come back")


async def test_an_assertion_in_a_file_stands_in_for_a_secret(issuer: Issuer, brokers: Brokers, tmp_path: Path) -> None:
    assertion = tmp_path / "assertion"
    environment = variables(issuer, brokers, OAUTH_CLIENT_SECRET=None, OAUTH_ASSERTION_FILE=str(assertion))
    with pytest.raises(KafkaUnavailable, match=r"assertion of DARKROOM_KAFKA__OAUTH_ASSERTION_FILE cannot be read"):
        await is_let_in(environment)
    await asyncio.sleep(1)  # the pause after a failure
    assertion.write_text(issuer.token())
    await is_let_in(environment)


async def test_a_token_service_behind_a_private_authority(issuer: Issuer, brokers: Brokers, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    private = Issuer(APP)
    private._key = issuer._key
    with private.serving(authority.identity("issuer", address="127.0.0.1")):
        private.claims = {"iss": issuer.url}
        environment = variables(private, brokers, OAUTH_CA_FILE=str(authority.certificate))
        await is_let_in(environment)
        with pytest.raises(KafkaUnavailable, match=r"nobody whom this client trusts.*DARKROOM_KAFKA__OAUTH_CA_FILE"):
            await is_let_in(variables(private, brokers))


async def test_a_token_without_a_told_life_ends_when_it_says_itself(issuer: Issuer, brokers: Brokers) -> None:
    issuer.tells_life, issuer.life_s, begun = False, LIFE_S, issuer.answers
    environment = variables(issuer, brokers, OAUTH_TOKEN_URL=f"{issuer.token_url}?own=1")
    await is_let_in(environment)
    await asyncio.sleep(LIFE_S)
    await is_let_in(environment)
    assert issuer.answers >= begun + 2


BAD: dict[str, tuple[dict[str, str | None], Callable[[Issuer], Any], str]] = {
    "a wrong secret": (
        {"OAUTH_CLIENT_SECRET": "wrong"},
        lambda _: None,
        r"HTTP 401, invalid_client: unknown client.*__OAUTH_CLIENT_SECRET",
    ),
    "a scope that is not given": (
        {"OAUTH_SCOPE": "admin"},
        lambda _: None,
        r"invalid_scope.*DARKROOM_KAFKA__OAUTH_SCOPE",
    ),
    "an address without a token endpoint": (
        {"OAUTH_TOKEN_URL": "http://127.0.0.1:9/token"},
        lambda _: None,
        r"did not answer.*DARKROOM_KAFKA__OAUTH_TOKEN_URL",
    ),
    "an issuer that has another name": (
        {"OAUTH_ISSUER": "{issuer}/realms/other"},
        lambda _: None,
        r"HTTP 404.*__OAUTH_ISSUER the issuer's address",
    ),
    "a service that hangs": (
        {"OAUTH_SCOPE": "kafka", "REQUEST_TIMEOUT_MS": "20000"},
        lambda issuer: issuer.goes_on.clear(),
        r"did not answer \(ReadTimeout",
    ),
    "a token for others": (
        {"OAUTH_CLIENT_SECRET": SECRET, "OAUTH_TOKEN_URL": "{issuer}/oauth/token?audience"},
        lambda issuer: issuer.claims.update(aud="others"),
        r"refuses the token of the client worker one .*invalid_token.*expect the token's issuer and audience",
    ),
    "a token that is not valid yet": (
        {"OAUTH_TOKEN_URL": "{issuer}/oauth/token?later"},
        lambda issuer: issuer.claims.update(nbf=4_000_000_000, iat=4_000_000_000),
        r"refuses the token",
    ),
    "a token that has ended": (
        {"OAUTH_TOKEN_URL": "{issuer}/oauth/token?ended"},
        lambda issuer: setattr(issuer, "life_s", -60.0),
        r"clocks is wrong.*by NTP",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_each_failure_is_a_sentence_with_its_remedy(issuer: Issuer, brokers: Brokers, name: str) -> None:
    changes, make_bad, says = BAD[name]
    make_bad(issuer)
    changed = {key: value and value.replace("{issuer}", issuer.url) for key, value in changes.items()}
    with pytest.raises(KafkaUnavailable, match=says) as caught:
        await is_let_in(variables(issuer, brokers, **changed))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"OAUTH_CLIENT_ID": None}, "needs oauth_client_id"),
        ({"OAUTH_CLIENT_SECRET": None}, "either oauth_client_secret or oauth_assertion_file"),
        ({"OAUTH_ASSERTION_FILE": "/nowhere"}, "either oauth_client_secret or oauth_assertion_file"),
        ({"OAUTH_ISSUER": None}, "oauth_token_url or oauth_issuer"),
        ({"SASL_MECHANISM": "PLAIN", "SASL_USERNAME": "u", "SASL_PASSWORD": "p"}, "for sasl_mechanism OAUTHBEARER"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, str | None], says: str) -> None:
    environment = {
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_MECHANISM": "OAUTHBEARER",
        "OAUTH_ISSUER": "https://issuer",
        "OAUTH_CLIENT_ID": "c",
        "OAUTH_CLIENT_SECRET": "s",
    }
    environ = {f"DARKROOM_KAFKA__{name}": value for name, value in (environment | changes).items() if value is not None}
    with pytest.raises(SettingsError, match=says):
        load_settings(environ=environ)
