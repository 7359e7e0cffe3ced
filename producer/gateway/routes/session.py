"""`/session`: signing in on the page with a key, for a cookie that scripts cannot read and other sites cannot use."""

from __future__ import annotations

import ipaddress
import json
import time
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response

from darkroom.producer.gateway.access.cookies import COOKIE_NAME, SECURE_COOKIE_NAME, CookieSigner
from darkroom.producer.gateway.access.gatekeeper import CredentialGatekeeper, LoopbackGatekeeper, same_origin
from darkroom.producer.gateway.access.quotas import CallLimit
from darkroom.producer.gateway.access.refusals import cross_site, too_many, unknown_credential
from darkroom.producer.gateway.principal import Principal
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.routes.http_rules import reads
from darkroom.schemas.settings.access import AccessSettings

SIGN_IN_BYTES_MAX: Final = 4096


class Sessions:
    """Exchanges keys for cookies. Keeps nothing but how often an address tried."""

    def __init__(
        self, settings: AccessSettings, gatekeeper: CredentialGatekeeper | LoopbackGatekeeper, cookies: CookieSigner
    ) -> None:
        self._settings = settings
        self._gatekeeper = gatekeeper
        self._cookies = cookies
        self._attempts = CallLimit(settings.sign_ins_per_minute_max, per_s=60)

    def router(self) -> APIRouter:
        """Return the routes: GET says who the caller is, POST signs in, DELETE signs out."""
        router = APIRouter(tags=["session"])
        reads(router, "/session", summary="Who is signed in")(self.who)
        router.add_api_route(
            "/session", self.sign_in, methods=["POST"], summary='Sign in with a key: {"key": "dk_..."} or a form'
        )
        router.add_api_route("/session", self.sign_out, methods=["DELETE"], summary="Sign out")
        return router

    async def who(self, request: Request) -> dict[str, Any]:
        """Return the caller, or nobody, and whether a key is needed. Raises `Problem` 503."""
        try:
            principal = await self._gatekeeper.known(request)
        except Problem as problem:
            if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            return _told(None, needs_key=self._gatekeeper.needs_key)
        signed_in = (
            isinstance(self._gatekeeper, CredentialGatekeeper) and await self._gatekeeper.signed_in(request) is not None
        )
        return _told(principal, signed_in=signed_in, needs_key=False)

    async def sign_in(self, request: Request, response: Response) -> dict[str, Any]:
        """Set a cookie for a key. Raises `Problem` 401, 403 or 429."""
        if not same_origin(request, unsaid=True):
            raise cross_site()
        if isinstance(self._gatekeeper, LoopbackGatekeeper):
            return _told(await self._gatekeeper.known(request), needs_key=False)
        if wait_s := self._attempts.refused(_address(request)):
            raise too_many("too_many_sign_ins", "There were too many attempts to sign in from this address.", wait_s)
        key = await self._gatekeeper.key_of(await _given_key(request))
        if key is None:
            raise unknown_credential()
        seconds = self._settings.session_hours * 3600
        if key.expires is not None:
            seconds = min(seconds, key.expires.timestamp() - time.time())
        self._set(request, response, self._cookies.sign(key, expires_at=time.time() + seconds), max(1, int(seconds)))
        scopes = sorted(key.scopes)
        return {"tenant": key.tenant, "name": key.id, "scopes": scopes, "signed_in": True, "needs_key": False}

    async def sign_out(self, request: Request, response: Response) -> dict[str, Any]:
        """Delete the cookie. Raises `Problem` 403 for another site's page."""
        if not same_origin(request, unsaid=True):
            raise cross_site()
        self._set(request, response, "", 0)
        return _told(None, needs_key=self._gatekeeper.needs_key)

    def _set(self, request: Request, response: Response, value: str, seconds: int) -> None:
        choice = self._settings.cookie_secure
        secure = request.url.scheme == "https" if choice == "auto" else choice == "on"
        response.set_cookie(
            SECURE_COOKIE_NAME if secure else COOKIE_NAME,
            value,
            max_age=seconds,
            path="/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )
        response.headers["Cache-Control"] = "no-store"


def _told(principal: Principal | None, *, needs_key: bool, signed_in: bool = False) -> dict[str, Any]:
    return {
        "tenant": None if principal is None else principal.tenant,
        "name": None if principal is None else principal.name,
        "scopes": [] if principal is None else sorted(principal.scopes),
        "signed_in": signed_in,
        "needs_key": needs_key,
    }


async def _given_key(request: Request) -> str:
    """Return the key in a JSON object or a form, or an empty text."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > SIGN_IN_BYTES_MAX:
            return ""
    try:
        text = content.decode("utf-8")
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            given: Any = parse_qs(text, max_num_fields=10).get("key", [""])[0]
        else:
            given = json.loads(text).get("key")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return given.strip() if isinstance(given, str) else ""


def _address(request: Request) -> str:
    """Return the caller's address; for IPv6 the /64 network, in which one caller can choose any address."""
    host = request.client.host if request.client is not None else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
