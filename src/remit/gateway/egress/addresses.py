"""Which addresses a service may be at: public ones, unless its configuration says otherwise.

Looked at after the name was resolved and before anything is sent, on every connection, so that a
name that answers with another address the second time gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that IANA gave out of IPv6; the rest, as ``::a.b.c.d``, means what each system makes of it."""
_ODD = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24")))
"""Of protocols' own use, and to whoever is the nearest relay (RFC 6890, RFC 7526)."""


class PrivateAddressError(OSError):
    """The name leads to an address that is not public."""


class PublicOnly(AbstractResolver):
    """Resolves names, and refuses those that lead to any address that is not public."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            PrivateAddressError: one of them is not public.
        """
        found = await self._resolver.resolve(host, port, family)
        if not found or not all(is_public(each["host"]) for each in found):
            raise PrivateAddressError(f"`{host}` is at an address that is not public")
        return found

    async def close(self) -> None:
        """Close the resolver below."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, whatever it is wrapped in."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        return found in _UNICAST and found.is_global
    odd = any(found in network for network in _ODD)
    return found.is_global and not found.is_multicast and not odd


def is_literal(host: str) -> bool:
    """Whether a host is an address itself, which no resolver sees."""
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True
