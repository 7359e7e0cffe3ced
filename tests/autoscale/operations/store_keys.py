"""Keys of the embedded store that come and go while it runs, as an administrator of it makes them."""

from __future__ import annotations

import secrets
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

COMMAND_S_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class Key:
    """One pair, of a user of its own."""

    user: str
    access: str = field(default_factory=lambda: f"AK{secrets.token_hex(8)}")
    secret: str = field(default_factory=lambda: secrets.token_hex(20))


class StoreKeys:
    """Makes and takes back keys with SeaweedFS's own shell."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        """`ports` are the store's, as the stack names them."""
        weed = Path(sysconfig.get_path("scripts")) / "weed"
        address = {
            name: f"127.0.0.1:{ports[f'{name}.port']}.{ports[f'{name}.port.grpc']}" for name in ("master", "filer")
        }
        self._shell = [str(weed), "shell", f"-master={address['master']}", f"-filer={address['filer']}"]

    def make(self, user: str) -> Key:
        """A new pair that may do everything."""
        key = Key(user)
        self._configure(f"-user {user} -access_key {key.access} -secret_key {key.secret} -actions Admin -apply")
        return key

    def revoke(self, key: Key) -> None:
        """From now on it opens nothing."""
        self._configure(f"-user {key.user} -access_key {key.access} -delete -apply")

    def _configure(self, options: str) -> None:
        subprocess.run(
            self._shell,
            input=f"s3.configure {options}\n",
            text=True,
            capture_output=True,
            timeout=COMMAND_S_MAX,
            check=True,
        )
