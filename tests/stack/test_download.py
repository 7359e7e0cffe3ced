"""Kafka's files come whole and as listed or not at all, once for all who ask, and a failure says what to do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import HttpUrl

from darkroom.consumer.stack.download import fetch_kafka
from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.jars import DOWNLOAD_BYTES, KAFKA_JARS, KAFKA_VERSION, Jar, parse
from darkroom.consumer.stack.relock import relock
from darkroom.consumer.stack.settings import StackSettings
from tests.stack.fake_maven import FakeMaven, content, jar

COORDINATES = tuple(f"org.example:part-{number}:1.{number}" for number in range(12))
JARS = tuple(jar(coordinates) for coordinates in COORDINATES)


@pytest.fixture
def maven() -> Iterator[FakeMaven]:
    with FakeMaven(dict.fromkeys(COORDINATES, ())).serving() as fake:
        yield fake


def settings(maven_url: str, cache: Path, **others: float) -> StackSettings:
    return StackSettings(maven_url=HttpUrl(maven_url), cache_dir=cache, **others)  # type: ignore[arg-type]


def fetched(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.jar")}


EVERYTHING = {each.file_name: content(each.coordinates) for each in JARS}


def test_all_files_are_fetched_once(maven: FakeMaven, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = fetch_kafka(settings(maven.url, tmp_path), lines.append, jars=JARS)
    assert fetched(folder) == EVERYTHING
    assert "first time only" in lines[0]
    assert fetch_kafka(settings(maven.url, tmp_path), lines.append, jars=JARS) == folder
    assert set(maven.asked.values()) == {1}
    assert len(lines) == 2
    assert not list(folder.glob(".part-*"))


def test_two_at_once_do_each_other_no_harm(maven: FakeMaven, tmp_path: Path) -> None:
    maven.pause_s = 0.005
    folders: list[Path] = []

    def fetch() -> None:
        folders.append(fetch_kafka(settings(maven.url, tmp_path), lambda _: None, jars=JARS))

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 3
    assert fetched(folders[0]) == EVERYTHING
    assert set(maven.asked.values()) == {1}


def test_a_short_outage_is_bridged(maven: FakeMaven, tmp_path: Path) -> None:
    maven.failing[JARS[3].file_name] = 1
    assert fetched(fetch_kafka(settings(maven.url, tmp_path), lambda _: None, jars=JARS)) == EVERYTHING
    assert maven.asked[JARS[3].file_name] == 2


def test_other_bytes_are_refused_and_what_came_is_kept(maven: FakeMaven, tmp_path: Path) -> None:
    maven.broken = {JARS[-1].file_name}
    with pytest.raises(StackError, match=rf"{JARS[-1].file_name} has the SHA-256"):
        fetch_kafka(settings(maven.url, tmp_path), lambda _: None, jars=JARS)
    (folder,) = tmp_path.iterdir()
    assert fetched(folder) == {name: body for name, body in EVERYTHING.items() if name != JARS[-1].file_name}
    maven.broken = set()
    assert fetched(fetch_kafka(settings(maven.url, tmp_path), lambda _: None, jars=JARS)) == EVERYTHING
    assert maven.asked[JARS[0].file_name] == 1


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(StackError, match=r"no connection.*DARKROOM_STACK_MAVEN_URL.*copy .*kafka-"):
        fetch_kafka(settings(f"http://127.0.0.1:{port}", tmp_path), lambda _: None, jars=JARS)


def test_a_file_that_the_repository_lacks_is_named(maven: FakeMaven, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"gone-9\.jar.*not found"):
        fetch_kafka(settings(maven.url, tmp_path), lambda _: None, jars=(*JARS, jar("org.example:gone:9")))


def test_a_download_that_trickles_ends_at_its_limit(maven: FakeMaven, tmp_path: Path) -> None:
    maven.pause_s = 0.2
    begun = time.monotonic()
    with pytest.raises(StackError, match="DARKROOM_STACK_DOWNLOAD_LIMIT_S"):
        fetch_kafka(settings(maven.url, tmp_path, download_limit_s=0.5), lambda _: None, jars=JARS)
    assert time.monotonic() - begun < 5


def test_a_cache_that_cannot_be_written_is_an_error(maven: FakeMaven, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="DARKROOM_STACK_CACHE_DIR"):
        fetch_kafka(settings(maven.url, tmp_path / "file"), lambda _: None, jars=JARS)


def test_the_list_is_one_whole_kafka() -> None:
    """A dependency management that is not Kafka's own once replaced its client by an older release's."""
    of_kafka = [each for each in KAFKA_JARS if each.coordinates.startswith("org.apache.kafka:")]
    assert len(of_kafka) >= 14
    assert {each.coordinates.rpartition(":")[2] for each in of_kafka} == {KAFKA_VERSION}
    names = [each.coordinates.rpartition(":")[0] for each in KAFKA_JARS]
    assert len(set(names)) == len(names)
    assert 30_000_000 < DOWNLOAD_BYTES < 60_000_000


def test_relock_lists_the_broker_and_what_it_needs_and_the_matching_log_binding(tmp_path: Path) -> None:
    artifacts = {
        "org.apache.kafka:kafka_2.13:9.9.9": ("org.slf4j:slf4j-api:1.7.36", "org.apache.logging.log4j:log4j-core:2.1"),
        "org.slf4j:slf4j-api:1.7.36": (),
        "org.slf4j:slf4j-api:1.0": (),
        "org.apache.logging.log4j:log4j-core:2.1": (),
        "org.apache.logging.log4j:log4j-slf4j-impl:2.1": ("org.slf4j:slf4j-api:1.0",),
    }
    with FakeMaven(artifacts).serving() as maven:
        jars = relock("9.9.9", settings(maven.url, tmp_path))
        with pytest.raises(StackError, match=r"Kafka 8\.8\.8 cannot be resolved"):
            relock("8.8.8", settings(maven.url, tmp_path))
    assert jars == sorted(jar(each) for each in artifacts if each != "org.slf4j:slf4j-api:1.0")
    assert parse("\n".join(f"{each.coordinates} {each.sha256}" for each in jars)) == tuple(jars)
    assert Jar("a:b:1", "x").file_name == "b-1.jar"
