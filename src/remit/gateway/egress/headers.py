"""Which headers pass, in either direction: up those that are known to ask for nothing more.

A mandate and a policy see no headers. So none goes up that could change what a call means (whom it
acts for, which method or path is meant, a part of an answer only), and an API's own headers are
fixed by its operator. Down goes all but what is about a connection, a cookie, or how a client
should treat the host it talks to, for that host is not the service.
"""

from __future__ import annotations

from collections.abc import Iterable

from remit.gateway.egress.service import Service
from remit.gateway.reply import Headers
from remit.gateway.wire import Head, ProtocolError, headers_down

_UP = frozenset(
    {
        b"accept",
        b"accept-language",
        b"idempotency-key",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-unmodified-since",
        b"traceparent",
        b"tracestate",
        b"user-agent",
    }
)
_NEVER_DOWN = frozenset(
    {
        b"alt-svc",
        b"clear-site-data",
        b"expect-ct",
        b"location",
        b"nel",
        b"public-key-pins",
        b"refresh",
        b"report-to",
        b"reporting-endpoints",
        b"service-worker-allowed",
        b"set-cookie2",
        b"sourcemap",
        b"strict-transport-security",
        b"www-authenticate",
        b"authentication-info",
        b"x-reproxy-url",
        b"x-sendfile",
    }
)
_NEVER_DOWN_PREFIXES = (b"access-control-", b"cross-origin-", b"remit-", b"x-accel-", b"sec-")


def up(head: Head, service: Service, *, media: str | None) -> list[tuple[str, str]]:
    """Return the headers that go up, before the credential's.

    Args:
        head: the client's.
        service: its own headers stand in the place of the client's.
        media: the content type of the body that is sent, if there is one.

    Raises:
        ProtocolError: one that would go up is there twice, or holds what no header should.
    """
    sent: dict[str, str] = {}
    for name, value in head.headers:
        if name not in _UP:
            continue
        text = name.decode("ascii")
        if text in sent:
            raise ProtocolError(f"the header `{text}` appears more than once")
        sent[text] = value.decode("latin-1")
        if not sent[text].isprintable():
            raise ProtocolError(f"the header `{text}` holds a character that cannot be printed")
    sent |= {name.lower(): value for name, value in service.headers.items()}
    if media is not None:
        sent["content-type"] = media
    # What is compressed cannot be looked through.
    sent["accept-encoding"] = "identity"
    return list(sent.items())


def down(headers: Iterable[tuple[bytes, bytes]], service: Service) -> Headers:
    """Return the headers of an answer that the client may see.

    A ``Location`` within the service becomes one at the gateway; another is left out.
    """
    told: Headers = []
    for name, value in headers_down(headers):
        if name == b"location":
            base = service.base.encode()
            if value.startswith(base + b"/"):
                told.append((name, b"/egress/" + service.name.encode() + value[len(base) :]))
        elif name not in _NEVER_DOWN and not name.startswith(_NEVER_DOWN_PREFIXES):
            told.append((name, value))
    return told
