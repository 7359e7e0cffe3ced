"""Claims: the requests accepted over HTTP, in the store under `{tenant}/{request_id}/request.json`.

A claim is put, if there is none, before the event goes to Kafka. So of all who use an id, on any replica, exactly one
comes first, and the others learn whether their request is the same. From this follows what no crash of a replica can
break:

- A job that was answered with 202 has its claim in the store and its event acknowledged by all brokers, in this order.
  Nothing of it is in the gateway's memory alone.
- A replica that dies between the two leaves a claim without an event, and a caller without an answer. The caller
  repeats the request under its id or key: the claim stands, the digest matches, there is no outcome, and the event is
  sent. Or the caller polls: `darkroom.producer.gateway.jobs.jobs` sends the event once Kafka shows that it was never
  sent. An event that is sent twice costs a record: a worker renders a request id once and answers later records with
  its outcome.

There is no marker of sent events. It would cost each job another write for the sake of the one in a million whose
replica dies between two calls.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from darkroom.producer.gateway.bounded_store import BoundedStore
from darkroom.producer.gateway.jobs.hub import Identity
from darkroom.producer.outcomes.erasing import ERASED_AT
from darkroom.producer.store.objects import ObjectTooLarge, StoreUnavailable
from darkroom.schemas.errors import RequestRejected
from darkroom.schemas.events.fields import read_timestamp
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import request_key
from darkroom.schemas.wire.codec import decode_request

CLAIM_BYTES_MAX: Final = 32 * 1024 * 1024
"""Above any claim whatever `limits.request_bytes_max` says, for those who read no more than its callback's URL."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An accepted request."""

    request: GenerationRequest
    digest: str
    """The request's `darkroom.schemas.wire.digests.request_digest`."""
    accepted_at: datetime
    callback_url: str | None = None
    """Where the caller wants the completion to be posted to."""

    @property
    def identity(self) -> Identity:
        """Return tenant and request id."""
        return self.request.tenant, self.request.request_id

    def to_json(self) -> bytes:
        """Return the claim's object in the store. Fields that were never set are left out, as in the event."""
        document: dict[str, Any] = {
            "request": self.request.model_dump(mode="json", exclude_unset=True),
            "request_digest": self.digest,
            "accepted_at": self.accepted_at.isoformat(),
        }
        if self.callback_url is not None:
            document["callback_url"] = self.callback_url
        return json.dumps(document, separators=(",", ":")).encode()


def callback_in(content: bytes) -> str | None:
    """Return the callback's URL in a claim's object, None also for an object that is no claim."""
    try:
        url = json.loads(content).get("callback_url")
    except (ValueError, AttributeError, RecursionError):
        return None
    return url if isinstance(url, str) else None


class Claims:
    """The claims of all tenants, with a bounded cache: a claim never changes. Methods raise `StoreUnavailable`."""

    def __init__(self, store: BoundedStore, *, kept_max: int, request_bytes_max: int) -> None:
        self._store = store
        self._kept: OrderedDict[Identity, Claim] = OrderedDict()
        self._kept_max = kept_max
        # The request, each byte escaped as ASCII at worst, and the members beside it.
        self._bytes_max = 6 * request_bytes_max + 1024

    async def stake(self, claim: Claim) -> Claim | None:
        """Put a claim if there is none, and return the one that stands: this one or the earlier one.

        None where the request was erased: then nothing was put.
        """
        standing = self._kept.get(claim.identity)
        if standing is not None:
            return standing
        key = request_key(*claim.identity, prefix=self._store.prefix)
        if await self._store.put_if_absent(key, claim.to_json(), "application/json"):
            self._keep(claim)
            return claim
        content = await self._content(key)
        if content is not None and _is_tombstone(content):
            return None
        if content is None:
            raise StoreUnavailable(
                f"The claim of {'/'.join(claim.identity)} existed and was deleted before it could be read. Check who "
                "else deletes objects there."
            )
        return self._taken(key, content, claim.identity)

    def forget(self, identity: Identity) -> None:
        """Forget a claim of which a tombstone has taken the place."""
        self._kept.pop(identity, None)

    def kept(self, identity: Identity) -> Claim | None:
        """Return the claim, if it is cached."""
        return self._kept.get(identity)

    async def find(self, tenant: str, request_id: str) -> Claim | None:
        """Return the claim of a request; None where there is none, or where it was erased."""
        identity = (tenant, request_id)
        claim = self._kept.get(identity)
        if claim is not None:
            self._kept.move_to_end(identity)
            return claim
        key = request_key(tenant, request_id, prefix=self._store.prefix)
        content = await self._content(key)
        return None if content is None or _is_tombstone(content) else self._taken(key, content, identity)

    async def _content(self, key: str) -> bytes | None:
        try:
            return await self._store.get(key, bytes_max=self._bytes_max)
        except ObjectTooLarge as error:
            raise _unreadable(key, "it is larger than any claim") from error

    def _taken(self, key: str, content: bytes, identity: Identity) -> Claim:
        claim = self._read(key, content)
        if claim.identity != identity:
            raise _unreadable(key, f"it is the claim of {'/'.join(claim.identity)}")
        self._keep(claim)
        return claim

    def _read(self, key: str, content: bytes) -> Claim:
        try:
            document = json.loads(content)
            request = json.dumps(document["request"]).encode()
            decoded = decode_request(request, max_bytes=self._bytes_max)
            accepted_at = read_timestamp(document["accepted_at"])
            return Claim(decoded.request, document["request_digest"], accepted_at, document.get("callback_url"))
        except (ValueError, KeyError, TypeError, RequestRejected) as error:
            raise _unreadable(key, f"{type(error).__name__}") from error

    def _keep(self, claim: Claim) -> None:
        self._kept[claim.identity] = claim
        if len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)


def _is_tombstone(content: bytes) -> bool:
    try:
        return ERASED_AT in json.loads(content)
    except (ValueError, TypeError):
        return False


def _unreadable(key: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(f"The object {key} is not a claim ({why}). Delete it, and check who else writes there.")
