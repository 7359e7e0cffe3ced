"""Where a browser's call comes from: this gateway's own page, or a page that means harm."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")


def changes_something(connection: HTTPConnection) -> bool:
    """Whether the call's method is one that may."""
    return connection.scope.get("method", "GET") not in _SAFE_METHODS


def same_origin(connection: HTTPConnection, *, unsaid: bool) -> bool:
    """Whether the call comes from this gateway's own page; `unsaid` where nothing tells.

    Browsers say so in Sec-Fetch-Site, which no page can forge, and older ones in Origin, which is compared with Host
    without its scheme: a proxy may have ended TLS. Programs other than browsers say nothing.
    """
    headers = connection.headers
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    if origin := headers.get("origin"):
        try:
            return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        except ValueError:
            return False
    return unsaid


def is_local(connection: HTTPConnection) -> bool:
    """Whether the caller is on this machine, asked for it by a name of its own, and came without a proxy.

    The name keeps out pages whose host was made to resolve to 127.0.0.1 (DNS rebinding): the browser is local then, and
    the page is not.
    """
    client = connection.client
    if client is None or not _is_loopback(client.host):
        return False
    if any(name in connection.headers for name in _PROXIED):
        return False
    try:
        name = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
