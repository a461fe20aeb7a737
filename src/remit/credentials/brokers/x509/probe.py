"""Asks a real HTTPS service whether it takes a client certificate."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from remit.credentials.brokers.x509.grant import Grant, check_grant
from remit.credentials.certificates.authority import Authority, Leaf, private_text, sign_leaf
from remit.credentials.certificates.issuing import Probe
from remit.credentials.port import Surroundings
from remit.model.errors import BrokerError, ConfigError

# What servers that finish the handshake first say to a client whose certificate they do not take.
_REFUSALS = frozenset({400, 401, 403, 495, 496})
_REFUSED = re.compile(r"ALERT_(.*CERTIFICATE.*|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)\Z")
# TLS 1.3 lets a client speak before the server has looked at its certificate: what the server then
# says of it can be lost in a reset. So a lost answer is asked for again, listening first.
_LISTENING_SECONDS = (0.0, 0.2, 1.0)


class ProbeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for with a certificate of a revoked serial, to be refused."""

    url: str
    ca_file: str
    uri: str = "spiffe://remit.invalid/probe"
    common_name: str = "remit-probe"
    organization: tuple[str, ...] = ()
    seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    settle_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0


class X509Probe(Probe):
    """Makes one ``GET`` over a connection of its own."""

    def __init__(
        self, said: ProbeOptions, surroundings: Surroundings, authority: Authority, where: str
    ) -> None:
        self.seconds = said.seconds
        self.settle_seconds = said.settle_seconds
        self._said = said
        self._authority = authority
        self._clock = surroundings.clock
        self._trusted = surroundings.path(said.ca_file)
        self._url = _url(said.url, where)
        check_grant(Grant(common_name=said.common_name, organization=said.organization))
        if not said.uri.isascii() or not said.uri.isprintable():
            raise ConfigError(f"{where}, `probe.uri`: only printable ASCII fits")

    async def reach(self) -> None:
        """See that something listens.

        Raises:
            BrokerError: nothing does.
        """
        try:
            async with asyncio.timeout(self.seconds):
                _, writer = await asyncio.open_connection(self._url.hostname, self._port)
                writer.close()
        except OSError as error:
            raise BrokerError(f"`{self._url.hostname}` does not answer: is it up?") from error

    @property
    def _port(self) -> int:
        return self._url.port or 443

    async def accepts(self, serial: int, until: int) -> bool:
        """Show a certificate; say whether it is taken.

        Raises:
            BrokerError: neither taken nor refused.
        """
        context = await asyncio.to_thread(self._context, serial, until)
        host = self._url.hostname
        try:
            async with asyncio.timeout(self.seconds):
                for pause in _LISTENING_SECONDS:
                    line = await self._get(context, pause)
                    if line is not None:
                        return self._status(line) not in _REFUSALS
        except ssl.SSLCertVerificationError as error:
            raise BrokerError(
                f"`{host}` shows a certificate that `probe.ca_file` does not vouch for"
            ) from error
        except ssl.SSLError as error:
            if _REFUSED.search(error.reason or ""):
                return False
            raise BrokerError(f"`{host}` broke off the probe's handshake") from error
        except OSError as error:  # TimeoutError is one
            raise BrokerError(f"`{host}` does not answer the probe: is it up?") from error
        raise BrokerError(f"`{host}` closes the probe's connection without a word")

    async def _get(self, context: ssl.SSLContext, pause: float) -> bytes | None:
        """Return the first line of an answer; None where the connection was lost after TLS."""
        url = self._url
        reader, writer = await asyncio.open_connection(
            url.hostname, self._port, ssl=context, server_hostname=url.hostname
        )
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    return await reader.readline() or None
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            asked = f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n"
            writer.write(asked.encode())
            await writer.drain()
            return await reader.readline() or None
        except ConnectionError:
            return None
        except ValueError as error:
            raise BrokerError(f"`{url.hostname}` does not speak HTTP") from error
        finally:
            writer.transport.abort()

    def _status(self, line: bytes) -> int:
        version, _, rest = line.partition(b" ")
        status = rest[:3]
        if not version.startswith(b"HTTP/1.") or not status.isdigit():
            raise BrokerError(f"`{self._url.hostname}` does not speak HTTP")
        return int(status)

    def _context(self, serial: int, until: int) -> ssl.SSLContext:
        said = self._said
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = Leaf(
            serial=serial,
            common_name=said.common_name,
            organization=said.organization,
            uri=said.uri,
            now=self._clock(),
            until=datetime.fromtimestamp(until, UTC),
        )
        certificate = sign_leaf(self._authority, key, leaf)
        try:
            context = ssl.create_default_context(cafile=str(self._trusted))
        except (OSError, ssl.SSLError) as error:
            raise BrokerError(f"`probe.ca_file` `{self._trusted}` cannot be read") from error
        with tempfile.TemporaryDirectory(prefix="remit-probe-") as folder:
            both = Path(folder, "client.pem")
            both.touch(mode=0o600)
            both.write_text(private_text(key) + certificate)
            context.load_cert_chain(both)
        return context


def _url(text: str, where: str) -> SplitResult:
    try:
        url = urlsplit(text)
        right = url.scheme == "https" and bool(url.hostname) and url.port != 0
    except ValueError:
        right = False
    if not right or "@" in url.netloc or not text.isascii() or not text.isprintable():
        raise ConfigError(f"{where}, `probe.url` has to be an https:// address without a user")
    return url
