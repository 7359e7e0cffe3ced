"""Ports are free when chosen, differ, and lie where no outgoing connection can take them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.ports import LOOPBACK, free_ports, is_free


def test_a_port_on_which_something_listens_is_not_free() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_a_port_that_an_outgoing_connection_uses_is_not_free() -> None:
    with socket.create_server((LOOPBACK, 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert not is_free(client.getsockname()[1])


def test_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) for port in ports)


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < port < first_ephemeral for port in free_ports(200))


def test_a_twin_is_free_as_well() -> None:
    for _ in range(20):
        (port,) = free_ports(1, twin_offset=10_000)
        assert is_free(port)
        assert is_free(port + 10_000)
        assert port + 10_000 < 32_768


def test_ports_to_avoid_are_avoided() -> None:
    assert free_ports(1, avoid=range(10_240, 32_000))[0] >= 32_000


def test_no_room_is_an_error() -> None:
    with pytest.raises(StackError, match="No 1 free ports"):
        free_ports(1, avoid=range(10_240, 32_768))
