"""Fetches temporary keys for the store, and says in a sentence why there are none.

`web_identity` asks a token service by itself: the call is one form (AWS STS API Reference, "AssumeRoleWithWebIdentity";
MinIO and Ceph answer the same), the token travels in the body, which no proxy logs, and what the service says against
it is in the sentence.
"""

from __future__ import annotations

import os
import re
import secrets
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import IamAwsProvider
from urllib3.util import Timeout

from darkroom.producer.kafka.tls import STORE, client_context, trouble_of
from darkroom.producer.renewing import Ended, Lease
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_answers import told_by
from darkroom.schemas.errors import SettingsError, bounded
from darkroom.schemas.settings import S3Settings

CONNECT_S_MAX: Final = 3.0
READ_S_MAX: Final = 5.0
"""A token service answers within a second; with both limits a caller who waits hears why before it gives up."""
TOKEN_BYTES_MAX: Final = 64 * 1024
"""A service account's token has two kilobytes; STS takes 20,000 characters."""
_METADATA: Final = "http://169.254.169.254"
"""Where every instance has its metadata (Amazon EC2 User Guide)."""
_LIFE_S_MAX: Final = 36 * 3600
"""The longest that Amazon gives temporary keys for."""
_SAID_CHARACTERS_MAX: Final = 300
_TOKEN_FILE: Final = "DARKROOM_S3__WEB_IDENTITY_TOKEN_FILE"  # noqa: S105 - a variable's name

Source = Callable[[bool], Lease[Credentials]]
"""Fetches keys; called with True where those that were fetched before are refused."""


class TokenServiceRefused(Exception):  # noqa: N818 - named for what happened
    """The token service answered, and gave no keys."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if message else code)


class NoKeysFound(Exception):  # noqa: N818 - as above
    """Nothing of Amazon's chain has keys for this process."""


def source_of(s3: S3Settings) -> Source:
    """Return where the settings say that keys come from. Raises `SettingsError` where that cannot be used."""
    return _AmazonChain(s3) if s3.credentials == "aws" else _WebIdentity(s3)


def failure_of(s3: S3Settings, error: Exception) -> StoreUnavailable:
    """Return the sentence and the remedy for an exception of a source's, whatever its class."""
    said = bounded(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, _SAID_CHARACTERS_MAX)
    if isinstance(error, Ended):
        return _none(f"{error}", "Set this machine's clock and the token service's by NTP.")
    if s3.credentials == "aws":
        return _amazon_failure(said, error)
    service = s3.token_service
    if isinstance(error, TokenServiceRefused):
        said = bounded(str(error), _SAID_CHARACTERS_MAX)
        return _none(f"the token service at {service} refuses the token of {_TOKEN_FILE} ({said})", _remedy_for(said))
    if isinstance(error, (UnicodeDecodeError, OSError)) and not isinstance(error, TimeoutError):
        return _none(
            f"the token of {_TOKEN_FILE} cannot be read from {s3.web_identity_token_file} ({said})",
            "Check the path, its rights, and what writes it.",
        )
    if (tls := trouble_of(STORE, error)) is not None:
        return _none(f"the token service at {service} was not reached: {tls.what}", tls.remedy)
    return _none(
        f"the token service at {service} did not answer with keys ({said})",
        "Check that it runs, that DARKROOM_S3__STS_ENDPOINT is its address, and that this machine may reach it.",
    )


def _none(why: str, remedy: str) -> StoreUnavailable:
    return StoreUnavailable(f"No keys came for the object store: {why}.", remedy)


def _remedy_for(said: str) -> str:
    """Return what to do about a refusal, by its code and its message: servers use one code for many causes."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, said, re.IGNORECASE):
            return remedy
    return f"Check DARKROOM_S3__STS_ENDPOINT, DARKROOM_S3__ROLE_ARN and {_TOKEN_FILE}."


_REMEDIES: Final = (
    (r"not valid yet|not.?before", "Set this machine's clock and the issuer's by NTP."),
    (r"expired", "Renew the token's file: whatever writes it has stopped, or this machine's clock is wrong."),
    (
        r"malformed|valid JWT|parse|signature|token format",
        f"Let the file of {_TOKEN_FILE} hold one token alone, written whole, of an issuer that the service trusts.",
    ),
    (
        r"issuer|audience|identity provider|InvalidIdentityToken|InvalidClientToken",
        "Let the token come from an issuer that the service trusts, for the audience that it expects.",
    ),
    (
        r"AccessDenied",
        "Let the trust policy of the role allow sts:AssumeRoleWithWebIdentity to the token's subject, and check "
        "DARKROOM_S3__ROLE_ARN.",
    ),
)


class _WebIdentity:
    """A token in a file, for keys of a token service."""

    def __init__(self, s3: S3Settings) -> None:
        assert s3.web_identity_token_file is not None
        self._file: Path = s3.web_identity_token_file
        self._role_arn = s3.role_arn
        self._service = s3.token_service
        is_secure = self._service.startswith("https:")
        self._http = urllib3.PoolManager(
            num_pools=1,
            timeout=Timeout(connect=CONNECT_S_MAX, read=READ_S_MAX),
            ssl_context=client_context(STORE, s3.ca_file) if is_secure else None,
        )

    def __call__(self, _: bool) -> Lease[Credentials]:
        """Read the file and exchange what it holds now."""
        with self._file.open(encoding="utf-8") as file:
            token = file.read(TOKEN_BYTES_MAX + 1).strip()
        if not token or len(token) > TOKEN_BYTES_MAX:
            raise OSError("it does not hold a token, or is being written")
        fields = {"Version": "2011-06-15", "Action": "AssumeRoleWithWebIdentity", "WebIdentityToken": token}
        if self._role_arn is not None:
            fields |= {"RoleArn": self._role_arn, "RoleSessionName": f"darkroom-{secrets.token_hex(8)}"}
        response = self._http.request("POST", self._service, fields=fields, encode_multipart=False, retries=False)
        if response.status != 200:
            told = told_by(response)
            raise TokenServiceRefused(told.code, told.message)
        return _lease_of(response.data)


def _lease_of(document: bytes) -> Lease[Credentials]:
    """Read the answer of a token service. Raises `ValueError` where it has no keys."""
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        raise ValueError("it answers with a page")
    try:
        root = ElementTree.fromstring(document)  # noqa: S314 - it declares no entities
    except ElementTree.ParseError as error:
        raise ValueError(f"what it answers is no XML ({error})") from error
    texts = {one.tag.rpartition("}")[2]: (one.text or "").strip() for one in root.iter()}
    missing = [name for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration") if not texts.get(name)]
    if missing:
        raise ValueError(f"its answer lacks {', '.join(missing)}")
    ends = datetime.fromisoformat(texts["Expiration"])
    ends = ends if ends.tzinfo is not None else ends.replace(tzinfo=UTC)
    keys = Credentials(texts["AccessKeyId"], texts["SecretAccessKey"], texts["SessionToken"], ends)
    return Lease(keys, ends.timestamp())


class _AmazonChain:
    """Amazon's chain, in its order, by botocore; its last place, the instance's metadata, by the SDK.

    botocore (1.44) adds up to 25 minutes to the end of an instance's keys that end soon, so that its clients do not ask
    a metadata service that is away again and again. An address signed with such keys would outlive them.
    """

    def __init__(self, s3: S3Settings) -> None:
        try:
            from botocore.config import Config
            from botocore.session import Session
        except ImportError as error:
            raise SettingsError(
                "DARKROOM_S3__CREDENTIALS=aws needs the package botocore, which is not installed here. Install "
                "Darkroom with its extra `aws` (`pip install 'darkroom[aws]'`)."
            ) from error
        self._session = session = Session()
        limits = Config(connect_timeout=CONNECT_S_MAX, read_timeout=READ_S_MAX, retries={"total_max_attempts": 1})
        session.set_default_client_config(limits)
        if session.get_config_variable("region") is None:  # the chain's own calls to STS want one
            session.set_config_variable("region", s3.region)
        self._metadata = urllib3.PoolManager(
            num_pools=1, timeout=Timeout(connect=CONNECT_S_MAX, read=READ_S_MAX), retries=False
        )

    def __call__(self, _: bool) -> Lease[Credentials]:
        """Look through the whole chain. What was found before is not asked: botocore renews it by rules of its own."""
        from botocore.credentials import InstanceMetadataProvider, create_credential_resolver

        chain = create_credential_resolver(self._session)
        chain.remove(InstanceMetadataProvider.METHOD)
        found = chain.load_credentials()
        return self._of_instance() if found is None else _lease_of_botocore(found)

    def _of_instance(self) -> Lease[Credentials]:
        if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            raise NoKeysFound("and AWS_EC2_METADATA_DISABLED leaves the instance's metadata out")
        endpoint = self._session.get_config_variable("ec2_metadata_service_endpoint")
        provider = IamAwsProvider(custom_endpoint=(endpoint or _METADATA).rstrip("/"), http_client=self._metadata)
        try:
            keys = provider.retrieve()
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise NoKeysFound(f"and the instance's metadata gave none: {said}") from error
        ends = keys.expiration
        return Lease(keys, None if ends is None else ends.replace(tzinfo=UTC).timestamp())


def _lease_of_botocore(found: Any) -> Lease[Credentials]:
    """Read keys of botocore's, without the renewal that it begins by itself in their last 15 minutes.

    It says publicly only whether fewer than a given number of seconds are left, so the number is searched for.
    """
    is_ending = getattr(found, "refresh_needed", None)
    if is_ending is None:
        keys = found.get_frozen_credentials()
        return Lease(Credentials(keys.access_key, keys.secret_key, keys.token))
    if is_ending(0):  # not fetched yet: a role of a profile
        found.get_frozen_credentials()
    left_s = bisect_left(range(_LIFE_S_MAX), True, key=is_ending) - 1
    found.refresh_needed = lambda refresh_in=None: False  # noqa: ARG005 - as it is called
    keys = found.get_frozen_credentials()
    if left_s >= _LIFE_S_MAX - 1:
        return Lease(Credentials(keys.access_key, keys.secret_key, keys.token))
    ends = datetime.now(UTC) + timedelta(seconds=max(0, left_s))
    return Lease(Credentials(keys.access_key, keys.secret_key, keys.token, ends), ends.timestamp())


def _amazon_failure(said: str, error: Exception) -> StoreUnavailable:
    from botocore.exceptions import ClientError

    if isinstance(error, NoKeysFound):
        return _none(
            "Amazon's chain found none (environment, profile, web identity, container), "
            f"{bounded(str(error), _SAID_CHARACTERS_MAX)}",
            "Give the pod's service account or the machine a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID; a pod "
            "reaches the instance's metadata only where its hop limit is 2 or more.",
        )
    if isinstance(error, ClientError):
        remedy = _remedy_for(said).replace("DARKROOM_S3__STS_ENDPOINT", "AWS_REGION").replace("DARKROOM_S3__", "AWS_")
        return _none(f"Amazon's token service refuses this process ({said})", remedy)
    return _none(
        f"the service that Amazon's chain asks did not give any ({said})",
        "Check that this machine may reach it, STS or the pod identity agent, and the AWS_* variables and profiles.",
    )
