"""Decides where callbacks may go: to public addresses, and to the networks that the operator allows.

A caller chooses the address, and the server that posts to it stands inside of the operator's network. So the name is
resolved once, every address that it has must be allowed, and the connection goes to one that was looked at: a name that
means something else a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

URL_CHARS_MAX: Final = 2_000
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses as IPv6 hosts reach them through a translator (RFC 6052): the IPv4 address decides."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressRefused(Exception):  # noqa: N818 - named for what happened
    """A URL that no callback may go to: one sentence."""


class Addressees:
    """The addresses that are allowed in a deployment. `networks` are allowed although they are not public."""

    def __init__(self, networks: Collection[str]) -> None:
        self._networks = [ipaddress.ip_network(one) for one in networks]

    def check(self, url: Any) -> SplitResult:
        """Return the parts of a URL that a callback may name. Raises `AddressRefused`. Nothing is looked up."""
        if not isinstance(url, str) or not 1 <= len(url) <= URL_CHARS_MAX:
            raise AddressRefused(f"a callback's URL is a text of 1 to {URL_CHARS_MAX} characters")
        if not url.isascii() or any(one <= " " or one in "\x7f\\" for one in url):
            raise AddressRefused("a callback's URL has visible ASCII characters only; encode the others (%20, xn--)")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise AddressRefused(f"the callback's URL cannot be read ({error})") from error
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise AddressRefused("a callback's URL is https://host/path or http://host/path")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise AddressRefused("a callback's URL has neither a user's name nor a fragment; its signature proves it")
        if port == 0:
            raise AddressRefused("a callback's URL has no port 0")
        try:
            literal = ipaddress.ip_address(parts.hostname)
        except ValueError:
            return parts
        self._pass(literal)
        return parts

    async def resolve(self, parts: SplitResult) -> Address:
        """Return the address to connect to. Raises `AddressRefused`, and `OSError` for a name that has none."""
        assert parts.hostname is not None
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
        # A scope (fe80::1%eth0) names an interface of this machine: link-local all the same.
        addresses = [ipaddress.ip_address(str(where[4][0]).partition("%")[0]) for where in found]
        for address in addresses:
            self._pass(address)
        if not addresses:
            raise OSError(f"{parts.hostname} has no address")
        return addresses[0]

    def _pass(self, address: Address) -> None:
        if any(address.version == one.version and address in one for one in self._networks):
            return
        reached = _reached(address)
        if reached != address and any(reached.version == one.version and reached in one for one in self._networks):
            return
        is_local = isinstance(reached, ipaddress.IPv6Address) and reached.is_site_local
        if not reached.is_global or reached.is_multicast or reached.is_reserved or is_local:
            raise AddressRefused(
                f"callbacks do not go to {address}, which is not a public address (DARKROOM_HOOKS__ALLOWED_NETWORKS)"
            )


def _reached(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    return address
