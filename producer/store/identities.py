"""The keys that requests to the store are signed with: one holder for the client and for the signer of addresses.

    static, files    the settings' own keys. Files are read again when they change, all of them together.
    web_identity     a token's file is exchanged at a token service: Amazon's STS, MinIO's, Ceph's
    aws              whatever Amazon's own chain finds, by botocore

botocore is Amazon's reference for the chain: profiles with roles, single sign-on, EKS Pod Identity, ECS, IMDSv2. The
SDK's providers (minio 7.2.20) have no lock, renew 10 s before the end, raise while the service is away although the
keys are good, and put a token into an address, which proxies log. So keys are held by `darkroom.producer.renewing`.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Final

from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider
from typing_extensions import override

from darkroom.producer.renewing import Renewing
from darkroom.producer.store.identity_sources import failure_of, source_of
from darkroom.schemas.settings import S3Settings

_LOOKS: Final = 4
_LOOK_PAUSE_S: Final = 0.05
"""Files of one pair are replaced one after the other: within this time the second one follows the first."""


class Identity(Provider):
    """The SDK's provider, and what the SDK does not ask: for keys without waiting, and for others than were refused."""

    @abstractmethod
    def held(self) -> Credentials:
        """Return valid keys without waiting for a service. Raise `StoreUnavailable` where none are held."""

    @abstractmethod
    def renewed(self, refused: Credentials) -> bool:
        """Return whether there are other keys than the refused ones by now. May wait for a service."""


def identity_of(s3: S3Settings) -> Identity | None:
    """Return the holder of the keys; None for a store that is used without any."""
    if s3.credentials in ("static", "files"):
        return None if s3.access_key is None or s3.secret_key is None else _SettingsKeys(s3)
    return _RenewedKeys(s3)


class _SettingsKeys(Identity):
    """The keys as the settings have them at each request: those that stand in files are read again there."""

    def __init__(self, s3: S3Settings) -> None:
        self._s3 = s3
        self._are_files = s3.are_keys_in_files

    @override
    def retrieve(self) -> Credentials:
        keys = self._read()
        # A file that is replaced between two reads would make a pair of an old and a new key.
        while self._are_files and (again := self._read()) != keys:
            keys = again
        return keys

    @override
    def held(self) -> Credentials:
        return self.retrieve()

    @override
    def renewed(self, refused: Credentials) -> bool:
        for look in range(_LOOKS if self._are_files else 1):
            if look:
                time.sleep(_LOOK_PAUSE_S)
            if self.retrieve() != refused:
                return True
        return False

    def _read(self) -> Credentials:
        s3 = self._s3
        assert s3.access_key is not None
        assert s3.secret_key is not None
        token = None if s3.session_token is None else s3.session_token.get_secret_value()
        return Credentials(s3.access_key.get_secret_value(), s3.secret_key.get_secret_value(), token)


class _RenewedKeys(Identity):
    """Keys that a service gives for a time."""

    def __init__(self, s3: S3Settings) -> None:
        self._keys = Renewing("s3-identity", source_of(s3), failure=lambda error: failure_of(s3, error))

    @override
    def retrieve(self) -> Credentials:
        return self._keys.current()

    @override
    def held(self) -> Credentials:
        return self._keys.held()

    @override
    def renewed(self, refused: Credentials) -> bool:
        return self._keys.renewed(refused)


class Held(Provider):
    """For a client that signs on the event loop: never waits."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    @override
    def retrieve(self) -> Credentials:
        return self._identity.held()
