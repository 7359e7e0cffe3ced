"""Proves how a crash is told from a freeze, an eviction and a drain: the store's records and the places' locks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.consumer.core.journal import Fate
from darkroom.consumer.worker.boots import StoreBoots
from darkroom.producer.store.memory_objects import MemoryObjects

NOBODY: frozenset[str] = frozenset()
PLACE = f".boots/places/host-{hashlib.sha256(b'one').hexdigest()[:12]}-0.json"


class Machine:
    """A host on which worker processes start and end. A process that ends in any way loses its lock."""

    def __init__(self, folder: Path) -> None:
        self.objects = MemoryObjects()
        self._folder = folder
        self._running: list[StoreBoots] = []

    async def start(self) -> StoreBoots:
        boots = StoreBoots(self.objects, deployment="one", folder=self._folder, host="host")
        await boots.announce()
        self._running.append(boots)
        return boots

    def end(self, boots: StoreBoots) -> None:
        boots.release()
        self._running.remove(boots)

    def close(self) -> None:
        for boots in list(self._running):
            self.end(boots)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


async def fate_of(boots: StoreBoots, asked_by: StoreBoots, members: frozenset[str] = NOBODY) -> Fate:
    return (await asked_by.fates(frozenset({boots.boot}), members))[boots.boot]


async def test_who_ends_without_a_word_has_crashed_once_its_place_is_taken_again(machine: Machine) -> None:
    first, witness = await machine.start(), await machine.start()
    machine.end(first)
    assert await fate_of(first, witness) is Fate.GONE, "nobody knows yet"
    second = await machine.start()
    assert await fate_of(first, witness) is Fate.CRASHED
    assert await fate_of(second, witness, frozenset({f"name.{second.boot}"})) is Fate.ALIVE


async def test_who_was_told_to_end_has_not_crashed_however_it_ends(machine: Machine) -> None:
    first, witness = await machine.start(), await machine.start()
    await first.ending()
    machine.end(first)
    await machine.start()
    assert await fate_of(first, witness) is Fate.ENDED


async def test_a_frozen_process_keeps_its_place_and_is_never_called_crashed(machine: Machine) -> None:
    frozen, witness = await machine.start(), await machine.start()
    await machine.start()
    await machine.start()
    assert await fate_of(frozen, witness) is Fate.GONE
    assert await fate_of(frozen, witness, frozenset({f"name.{frozen.boot}"})) is Fate.ALIVE, "it woke up"


async def test_what_stands_there_and_is_no_record_of_ours_is_passed_over(machine: Machine) -> None:
    machine.objects.place(machine.objects.bucket, PLACE, b"\xff rubbish")
    first = await machine.start()
    machine.objects.place(machine.objects.bucket, f".boots/{first.boot}.json", b"[1]")
    assert await fate_of(first, await machine.start()) is Fate.GONE


async def test_workers_of_another_deployment_on_the_machine_are_no_successors(machine: Machine, tmp_path: Path) -> None:
    first, witness = await machine.start(), await machine.start()
    machine.end(first)
    other = StoreBoots(machine.objects, deployment="two", folder=tmp_path, host="host")
    await other.announce()
    assert await fate_of(first, witness) is Fate.GONE
    other.release()
