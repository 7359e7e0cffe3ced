"""Posts a callback to the address that was looked at, without redirects and within a time; reads no answer's body."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Final, NamedTuple

import httpx

from darkroom.producer.callbacks.addresses import Addressees, AddressRefused
from darkroom.producer.callbacks.signing import signed_headers
from darkroom.schemas.errors import bounded

USER_AGENT: Final = "darkroom-hooks"
ERROR_CHARS_MAX: Final = 300


class Refused(Exception):  # noqa: N818 - named for what happened
    """The callback was not taken: one sentence. `is_final` where trying again makes no sense."""

    def __init__(self, what: str, *, is_final: bool = False) -> None:
        super().__init__(bounded(what, ERROR_CHARS_MAX))
        self.is_final = is_final


class Message(NamedTuple):
    """A callback."""

    id: str
    """The same in all tries, so that a receiver can tell repetitions."""
    url: str
    body: bytes


class Sender:
    """Posts callbacks."""

    def __init__(self, addressees: Addressees, *, timeout_s: float) -> None:
        self._addressees = addressees
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context()

    async def send(self, message: Message, secrets: Collection[bytes]) -> None:
        """Post a message. Raises `Refused` unless it was answered with 2xx within the time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._post(message, secrets)
        except TimeoutError as error:
            raise Refused(f"there was no answer within {self._timeout_s:g} s") from error
        except AddressRefused as error:
            raise Refused(str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError) as error:
            raise Refused(f"it was not reached ({type(error).__name__}: {error})") from error
        if not 200 <= status < 300:
            raise Refused(f"it answered with status {status}", is_final=status == HTTPStatus.GONE)

    async def _post(self, message: Message, secrets: Collection[bytes]) -> int:
        parts = self._addressees.check(message.url)
        address = await self._addressees.resolve(parts)
        host = f"[{address}]" if address.version == 6 else str(address)
        port = "" if parts.port is None else f":{parts.port}"
        query = f"?{parts.query}" if parts.query else ""
        # A client for each call: a kept connection would go on to an address that the name no longer has.
        async with (
            httpx.AsyncClient(
                verify=self._tls, trust_env=False, follow_redirects=False, timeout=self._timeout_s
            ) as client,
            client.stream(
                "POST",
                f"{parts.scheme}://{host}{port}{parts.path or '/'}{query}",
                content=message.body,
                headers={
                    **signed_headers(message.id, int(time.time()), message.body, secrets),
                    "host": parts.netloc,
                    "content-type": "application/json",
                    "user-agent": USER_AGENT,
                },
                # The certificate has to be that of the name, not of its address.
                extensions={"sni_hostname": parts.hostname},
            ) as response,
        ):
            return response.status_code
