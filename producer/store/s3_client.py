"""The minio SDK's client, with the time-outs, tries and certificates that the settings ask for."""

from __future__ import annotations

from typing import Final

import urllib3
from minio import Minio
from minio.credentials.providers import Provider
from urllib3.util import Retry, Timeout

from darkroom.producer.kafka.tls import STORE, client_context
from darkroom.producer.store.identities import Held, Identity
from darkroom.producer.store.s3_answers import Reading
from darkroom.schemas.settings import S3Settings

PAUSE_S: Final = 0.1
"""Doubles with each try, as urllib3's `backoff_factor` does."""
TRY_AGAIN: Final = (429, 500, 502, 503, 504)


def connect(s3: S3Settings, identity: Identity | None) -> tuple[Minio, urllib3.PoolManager]:
    """A client and its connections, to be cleared when done. Connects to nothing yet.

    Raises `SettingsError` for authorities to trust that cannot be loaded.
    """
    http = Reading(
        identity,
        s3.region,
        num_pools=1,
        maxsize=s3.threads,
        block=False,  # there are as many connections as threads, so none ever waits for one
        timeout=Timeout(connect=s3.connect_timeout_s, read=s3.read_timeout_s),
        retries=Retry(
            total=s3.attempts - 1,
            redirect=0,
            allowed_methods=None,  # every request of ours may be repeated
            status_forcelist=TRY_AGAIN,
            backoff_factor=PAUSE_S,
            raise_on_status=False,
            raise_on_redirect=False,
            respect_retry_after_header=False,  # a server must not hold our threads for as long as it likes
        ),
        ssl_context=client_context(STORE, s3.ca_file) if s3.secure else None,
    )
    return _client(s3, s3.endpoint, identity, http), http


def signer(s3: S3Settings, identity: Identity | None) -> Minio:
    """A client that signs addresses as callers outside see them, and never connects: the host is signed too."""
    held = None if identity is None else Held(identity)
    return _client(s3, s3.public_endpoint or s3.endpoint, held, urllib3.PoolManager(num_pools=1, maxsize=1))


def _client(s3: S3Settings, endpoint: str, keys: Provider | None, http: urllib3.PoolManager) -> Minio:
    scheme, _, address = endpoint.partition("://")
    return Minio(address.rstrip("/"), credentials=keys, secure=scheme == "https", region=s3.region, http_client=http)
