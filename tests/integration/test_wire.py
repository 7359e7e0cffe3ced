"""Proves the security of the wire on a real Kafka and S3 server that speak TLS.

With each way to be let in (SASL PLAIN and SCRAM over TLS, a client's certificate) a request becomes stored pictures
and one completion. Whoever is not let in is told why, and which setting to change, in one sentence and at once. And
no secret is in any log, error, traceback or list of settings.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from darkroom import main
from darkroom.consumer.stack.tls import SASL_SSL, SSL
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.settings import SettingsError, load_settings
from tests.integration.fleet import Fleet
from tests.integration.in_process import running_worker
from tests.integration.secured import WAYS_IN, Secured, found_in

pytestmark = pytest.mark.stack

WRONG_PASSWORD = "not-the-password-of-anybody"
SHORT_PASSWORD = "hunter-22"
"""Whole even where an error shows the last characters of a section alone."""
REFUSED_S_MAX = 90.0
"""For a whole process on a busy machine, from its start to its end: a client that tries on has no end."""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    secured = Secured(tmp_path_factory.mktemp("secured"))
    yield secured
    secured.close()


@pytest.fixture
def levels() -> Iterator[None]:
    """Commands set the levels of their process, which here is everybody's: the root's, and those of talkative ones."""
    loggers = [logging.getLogger(name) for name in (None, "aiokafka", "urllib3")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def darkroom(environment: Mapping[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as a shell runs it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [inherited.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "darkroom", *arguments],
        env={**inherited, "PYTHONPATH": path, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- Those who are let in --------------------------------------------------------------------------------


@pytest.mark.parametrize("way_in", WAYS_IN)
@pytest.mark.usefixtures("levels")
async def test_a_request_becomes_pictures_over_tls(
    secured: Secured, tmp_path: Path, caplog: pytest.LogCaptureFixture, way_in: str
) -> None:
    fleet = Fleet(secured.environment(way_in), tmp_path)
    # An application that uses the client may log everything its libraries say.
    caplog.set_level(logging.DEBUG, logger="aiokafka")
    await fleet.make_topics()
    async with (
        running_worker(fleet.settings, LaneEngine(SimulatedDevice(0.0), rows_max=8)),
        Client(fleet.settings) as client,
    ):
        ids = await client.send(fleet.requests(1, count=2))
        outcomes = await client.wait(ids, timeout_s=30)
    (completion,) = outcomes.values()
    assert completion.status.value == "succeeded"
    assert len(completion.images) == 2
    report = await fleet.audit()
    assert (report.records, report.succeeded, report.pending) == (1, 1, 0)
    assert report.is_clean
    logged = caplog.text
    assert "Request to 127.0.0.1:" in logged, "the log is as talkative as it gets"
    assert found_in(logged, secured.secrets) == []

    doctor = await asyncio.to_thread(CliRunner().invoke, main, ["doctor", "--json"], env=fleet.environment)
    checks = json.loads(doctor.stdout)
    failed = {name: check for name, check in checks.items() if not check["passed"]}
    assert failed.keys().isdisjoint({"kafka", "topics", "bucket", "clocks"}), failed
    assert found_in(doctor.output, secured.secrets) == []


@pytest.mark.usefixtures("levels")
def test_secrets_come_from_files_and_are_shown_nowhere(secured: Secured, tmp_path: Path) -> None:
    fleet = Fleet(secured.secret_files(secured.environment("PLAIN")), tmp_path)
    assert found_in(" ".join(fleet.environment.values()), secured.secrets) == []
    worker = fleet.start()
    try:
        worker.wait_ready()
        sent = darkroom(fleet.environment, tmp_path, "send", "--prompt", "a figure", "--count", "2", "--wait")
        assert worker.drain() == 0
    finally:
        fleet.stop()
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout)["status"] == "succeeded"
    commands = (("audit",), ("serve", "--show-settings"), ("serve", "--show-settings", "--json"))
    audited, *settings = (CliRunner().invoke(main, command, env=fleet.environment) for command in commands)
    assert audited.exit_code == 0, audited.output
    assert json.loads(audited.stdout)["succeeded"] == 1
    assert all("********" in shown.stdout for shown in settings)
    log = worker.log.read_text()
    assert worker.events("published"), "the log is the worker's"
    said = "".join([log, sent.stdout, sent.stderr, audited.output, *(shown.output for shown in settings)])
    assert found_in(said, secured.secrets) == []


# --- Those who are not -----------------------------------------------------------------------------------


class Refused(NamedTuple):
    """A client that is not let in, and the parts of the sentence that it is told."""

    way_in: str
    changes: Callable[[Secured], Mapping[str, str | None]]
    told: tuple[str, ...]


BY_KAFKA = {
    "a wrong password, PLAIN": Refused(
        "PLAIN",
        lambda _: {"KAFKA__SASL_PASSWORD": WRONG_PASSWORD},
        ("refuses the log-in of alice", "Correct DARKROOM_KAFKA__SASL_USERNAME, __SASL_PASSWORD"),
    ),
    "a wrong password, SCRAM": Refused(
        "SCRAM-SHA-512",
        lambda _: {"KAFKA__SASL_PASSWORD": WRONG_PASSWORD},
        ("refuses the log-in of alice", "Correct DARKROOM_KAFKA__SASL_USERNAME, __SASL_PASSWORD"),
    ),
    "an authority that signed nothing": Refused(
        "PLAIN",
        lambda secured: {"KAFKA__SSL_CAFILE": str(secured.other_authority.certificate)},
        ("nobody whom this client trusts vouches for its certificate", "Let DARKROOM_KAFKA__SSL_CAFILE name"),
    ),
    "the system's authorities": Refused(
        "certificate",
        lambda _: {"KAFKA__SSL_CAFILE": None},
        ("nobody whom this client trusts vouches for its certificate", "Let DARKROOM_KAFKA__SSL_CAFILE name"),
    ),
    "no client certificate": Refused(
        "certificate",
        lambda _: {"KAFKA__SSL_CERTFILE": None, "KAFKA__SSL_KEYFILE": None},
        ("wants a certificate from this client", "Let DARKROOM_KAFKA__SSL_CERTFILE and __SSL_KEYFILE name"),
    ),
    "a stranger's certificate": Refused(
        "certificate",
        lambda secured: {"KAFKA__SSL_CERTFILE": str(secured.stranger), "KAFKA__SSL_KEYFILE": str(secured.stranger)},
        ("does not trust this client's certificate", "Let DARKROOM_KAFKA__SSL_CERTFILE and __SSL_KEYFILE name"),
    ),
    "another host name": Refused(
        "PLAIN",
        lambda secured: {"KAFKA__BOOTSTRAP_SERVERS": secured.kafka(SASL_SSL, "localhost")},
        ("certificate is for another name", "'localhost'", "Let DARKROOM_KAFKA__BOOTSTRAP_SERVERS have a name"),
    ),
    "no TLS at all": Refused(
        "certificate",
        lambda _: {"KAFKA__SECURITY_PROTOCOL": "PLAINTEXT"},
        ("hung up when it was greeted", "Check that DARKROOM_KAFKA__SECURITY_PROTOCOL"),
    ),
    "no log-in where one is wanted": Refused(
        "certificate",
        lambda secured: {"KAFKA__BOOTSTRAP_SERVERS": secured.kafka(SASL_SSL)},
        ("hung up when it was greeted", "Check that DARKROOM_KAFKA__SECURITY_PROTOCOL"),
    ),
    "a log-in where none is taken": Refused(
        "PLAIN",
        lambda secured: {
            "KAFKA__BOOTSTRAP_SERVERS": secured.kafka(SSL),
            "KAFKA__SSL_CERTFILE": str(secured.client),
            "KAFKA__SSL_KEYFILE": str(secured.client),
        },
        ("takes no log-in at this port", "Check that DARKROOM_KAFKA__SECURITY_PROTOCOL"),
    ),
    "authorities that are not there": Refused(
        "PLAIN",
        lambda secured: {"KAFKA__SSL_CAFILE": str(secured.folder / "absent.pem")},
        ("authorities to trust for Kafka cannot be loaded", "absent.pem", "DARKROOM_KAFKA__SSL_CAFILE"),
    ),
    "a key with a password": Refused(
        "certificate",
        lambda secured: {
            "KAFKA__SSL_CERTFILE": str(secured.locked_client),
            "KAFKA__SSL_KEYFILE": str(secured.locked_client),
        },
        ("locked-client.pem for Kafka has a password", "Store it without one"),
    ),
    "a certificate with somebody else's key": Refused(
        "certificate",
        lambda secured: {"KAFKA__SSL_KEYFILE": str(secured.stranger)},
        ("certificate for Kafka cannot be loaded", "DARKROOM_KAFKA__SSL_CERTFILE and __SSL_KEYFILE"),
    ),
}
BY_THE_STORE = {
    "an authority that signed nothing": Refused(
        "PLAIN",
        lambda secured: {"S3__CA_FILE": str(secured.other_authority.certificate)},
        ("nobody whom this client trusts vouches for its certificate", "Let DARKROOM_S3__CA_FILE name"),
    ),
    "another host name": Refused(
        "PLAIN",
        lambda secured: {"S3__ENDPOINT": secured.s3("localhost")},
        ("certificate is for another name", "'localhost'", "Let DARKROOM_S3__ENDPOINT have a name"),
    ),
    "a wrong key": Refused(
        "PLAIN",
        lambda _: {"S3__SECRET_KEY": WRONG_PASSWORD},
        ("refuses us the bucket", "DARKROOM_S3__SECRET_KEY"),
    ),
}


@pytest.mark.parametrize("case", BY_KAFKA.values(), ids=BY_KAFKA)
@pytest.mark.usefixtures("levels")
def test_who_is_not_let_in_by_kafka_is_told_why_at_once(secured: Secured, case: Refused) -> None:
    _ends_with_the_sentence(secured, case, "watch")


@pytest.mark.parametrize("command", [("send", "--prompt", "x"), ("audit",), ("cancel", "x")], ids=" ".join)
@pytest.mark.usefixtures("levels")
def test_every_command_says_it(secured: Secured, command: tuple[str, ...]) -> None:
    _ends_with_the_sentence(secured, BY_KAFKA["a wrong password, SCRAM"], *command)


def _ends_with_the_sentence(secured: Secured, case: Refused, *command: str) -> None:
    environment = secured.environment(case.way_in, **case.changes(secured))
    started = time.monotonic()
    ended = CliRunner().invoke(main, command, env=environment)
    assert time.monotonic() - started < REFUSED_S_MAX
    assert ended.exit_code == 1
    (sentence,) = ended.stderr.splitlines()
    assert [part for part in case.told if part not in sentence] == [], sentence
    assert found_in(ended.output, (*secured.secrets, WRONG_PASSWORD)) == []


@pytest.mark.parametrize("case", BY_THE_STORE.values(), ids=BY_THE_STORE)
async def test_who_is_not_let_in_by_the_store_is_told_why(secured: Secured, case: Refused) -> None:
    settings = load_settings(environ=secured.environment(case.way_in, **case.changes(secured)))
    async with MinioObjects(settings.s3) as objects:
        for call in (objects.ensure_bucket(1), objects.put_if_absent("a/b", b"x", "text/plain")):
            with pytest.raises(StoreUnavailable) as refused:
                await call
            assert [part for part in case.told if part not in str(refused.value)] == [], refused.value


@pytest.mark.parametrize(
    "case",
    [
        BY_KAFKA["a wrong password, PLAIN"],
        BY_THE_STORE["an authority that signed nothing"],
        Refused(
            "PLAIN",
            lambda secured: {"S3__CA_FILE": str(secured.folder / "absent.pem")},
            ("authorities to trust for the object store cannot be loaded", "absent.pem", "DARKROOM_S3__CA_FILE"),
        ),
    ],
    ids=["kafka", "store", "settings"],
)
def test_a_worker_that_is_not_let_in_ends_with_one_sentence(secured: Secured, tmp_path: Path, case: Refused) -> None:
    environment = secured.environment(case.way_in, **case.changes(secured))
    started = time.monotonic()
    ended = darkroom(environment, tmp_path, "serve", "--metrics-port", "0")
    assert time.monotonic() - started < REFUSED_S_MAX
    assert ended.returncode == 1, ended.stderr
    *log, sentence = ended.stderr.splitlines()
    assert sentence.startswith("Error: ")
    assert [part for part in case.told if part not in sentence] == [], sentence
    assert all(json.loads(line)["event"] for line in log), "before it there are only lines of the log"
    assert found_in(ended.stdout + ended.stderr, (*secured.secrets, WRONG_PASSWORD)) == []


@pytest.mark.usefixtures("levels")
def test_the_doctor_names_what_is_wrong_on_either_side(secured: Secured) -> None:
    changes = {"KAFKA__SASL_PASSWORD": WRONG_PASSWORD, "S3__CA_FILE": str(secured.other_authority.certificate)}
    ended = CliRunner().invoke(main, ["doctor", "--json"], env=secured.environment("PLAIN", **changes))
    assert ended.exit_code == 1
    checks = json.loads(ended.stdout)
    assert "refuses the log-in of alice" in checks["kafka"]["says"]
    assert "nobody whom this client trusts" in checks["bucket"]["says"]
    assert not any(checks[name]["passed"] for name in ("kafka", "topics", "bucket", "clocks"))
    assert all(checks[name]["remedy"] for name in ("kafka", "topics", "bucket", "clocks"))
    assert found_in(ended.output, (*secured.secrets, WRONG_PASSWORD)) == []


# --- Errors in an application's own hands ----------------------------------------------------------------


async def test_no_secret_is_in_a_traceback(secured: Secured, caplog: pytest.LogCaptureFixture) -> None:
    environment = secured.environment(
        "PLAIN", KAFKA__SASL_PASSWORD=WRONG_PASSWORD, S3__CA_FILE=str(secured.other_authority.certificate)
    )
    settings = load_settings(environ=environment)
    errors: list[BaseException] = []
    with pytest.raises(KafkaUnavailable, match="refuses the log-in of alice") as refused:
        await ensure_topics(settings)
    errors.append(refused.value)
    with pytest.raises(KafkaUnavailable, match="refuses the log-in of alice") as refused:
        async with Client(settings):
            raise AssertionError("it was let in")
    errors.append(refused.value)
    async with MinioObjects(settings.s3) as objects:
        for call in (objects.ensure_bucket(1), objects.put_if_absent("a/b", b"x", "text/plain")):
            with pytest.raises(StoreUnavailable, match="nobody whom this client trusts") as unreached:
                await call
            errors.append(unreached.value)
    with pytest.raises(SettingsError, match="sasl_username") as misfit:
        load_settings(overrides={"kafka": {"security_protocol": "SASL_SSL", "sasl_password": SHORT_PASSWORD}})
    errors.append(misfit.value)
    with pytest.raises(SettingsError, match="DARKROOM_S3__ENDPOINT") as misfit:
        load_settings(environ={"DARKROOM_S3__ENDPOINT": f"https://alice:{SHORT_PASSWORD}@host"})
    errors.append(misfit.value)
    said = "".join("".join(traceback.format_exception(error)) for error in errors) + caplog.text
    assert said.count("Traceback") > len(errors), "the causes are there"
    assert found_in(said, (*secured.secrets, WRONG_PASSWORD, SHORT_PASSWORD)) == []
    assert "Signature" not in said, "an address with a signature is as good as a key for a while"


def test_the_search_finds_what_it_looks_for() -> None:
    login = base64.b64encode(b"\0alice\0secret-password").decode()
    address = "https://host/key?credential=secret%2Fpassword"
    assert found_in(f"... {login} ...", ["secret-password"]) == ["secret-password"]
    assert found_in(address, ["secret/password", "another"]) == ["secret/password"]
    assert found_in("password", ["secret-password"]) == []
