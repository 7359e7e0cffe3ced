"""Certificates of brokers and of one client that are issued anew again and again, as certificate managers do.

The client's certificates last for minutes only: whoever does not read its files again is soon let in no more. The
servers' authority changes each time, too, and authorities that no broker uses any longer are taken away.
"""

from __future__ import annotations

import datetime
import itertools
import shutil
from pathlib import Path

from tests.integration.certificates import Authority


class Certificates:
    """The files that brokers and clients are told of; `renew` puts others into their place."""

    def __init__(self, folder: Path, brokers: int, *, client_valid_for: datetime.timedelta) -> None:
        """`client_valid_for` has to be longer than the time between two renewals."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._valid_for = client_valid_for
        self._numbers = itertools.count()
        self._clients = Authority(folder, "clients")
        self.clients_authority = self._clients.certificate
        """Who signs the certificates that brokers let in."""
        self.trusted = folder / "trusted.pem"
        """Whom the client trusts."""
        self.client = folder / "client.pem"
        """The client's certificate and key."""
        self.servers = [folder / f"broker-{node}.pem" for node in range(brokers)]
        """Each broker's certificate and key, which it reads when it starts."""
        self._next: list[Path] = []
        """By broker, the authority of what it reads at its next start."""
        self._in_force: list[Path | None] = [None] * brokers
        """By broker, the authority of what it read at its last start."""
        self.renew()

    def renew(self) -> None:
        """Issue everything anew. Brokers take theirs up when they start; clients have to at their next connection."""
        number = next(self._numbers)
        authority = Authority(self._folder, f"servers-{number}")
        self._next = [authority.certificate] * len(self.servers)
        self._trust()
        for node, file in enumerate(self.servers):
            _put(authority.identity(f"broker-{node}-{number}"), file)
        _put(self._clients.identity(f"client-{number}", valid_for=self._valid_for), self.client)

    def started(self, node: int) -> None:
        """Take note that a broker starts, and so has read its files."""
        self._in_force[node] = self._next[node]
        self._trust()

    def _trust(self) -> None:
        files = sorted({file for file in (*self._next, *self._in_force) if file is not None})
        new = self.trusted.with_suffix(".new")
        new.write_bytes(b"".join(file.read_bytes() for file in files))
        new.replace(self.trusted)


def _put(new: Path, place: Path) -> None:
    """Let the new file take the old one's place at once."""
    shutil.copy(new, beside := place.with_suffix(".new"))
    beside.replace(place)
