"""Where a minted credential goes on its way up: the operator's templates, filled for one call.

``{token}`` in a template is the broker's value of that name; the broker's page lists its values.
``{dpop}`` is a fresh proof for the one request (RFC 9449), where the token is bound to a key.
What goes into ``tls`` is shown in the handshake: a private key and its certificate (PEM).
Nothing is logged, and an error names the reference, never a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from remit.gateway.splice import with_meta
from remit.model.errors import ConfigError, InputError, UpstreamError
from remit.model.lease import Credential

if TYPE_CHECKING:
    # The bridge checks its configuration with this, and starts without the protocol's own library.
    from remit.gateway.wire import Message

REFERENCE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
"""How a template names one of the broker's values."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PROOF = "{dpop}"
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te"})
_OF_THE_BODY = frozenset({"content-digest", "content-md5", "digest", "repr-digest"})
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# MCP 2025-11-25 and 2026-07-28, basic, `_meta`: an optional prefix of labels, a slash, a name.
_LABEL = "[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_META_NAME = re.compile(
    rf"(?P<prefix>{_LABEL}(?:\.{_LABEL})*/)?[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z"
)
_RESERVED_LABELS = frozenset({"modelcontextprotocol", "mcp"})
_RESERVED_NAMES = frozenset({"progresstoken", "traceparent", "tracestate", "baggage"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """Templates of header values, environment variables and ``_meta`` members, by name; and of ``tls``.

    Raises:
        ConfigError: a header that a credential must not set, or a name that is none.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    tls: str | None = None

    def __post_init__(self) -> None:
        for name in self.headers:
            if not _HEADER.match(name) or name.lower() in _OURS:
                raise ConfigError(f"`{name}` is not a header that a credential can go into")
        for name in self.environment:
            if not _VARIABLE.match(name):
                raise ConfigError(f"`{name}` is not a variable that a credential can go into")
        for name in self.meta:
            _require_meta_name(name)
        if len({name.casefold() for name in self.meta}) != len(self.meta):
            raise ConfigError("two members of `meta` differ only in case")
        if self.tls is not None and REFERENCE.search(self.tls) is None:
            raise ConfigError(
                "`tls` names no value of the broker: write the one that holds a private key and its "
                'certificate, as in `tls = "{bundle}"`'
            )

    @property
    def used(self) -> bool:
        """Whether a credential goes anywhere at all."""
        return bool(self.headers or self.environment or self.meta or self.tls)

    def require_free(self, message: Message) -> None:
        """Refuse a request that brings a member of its own where the credential will go.

        Raises:
            InputError: it does, or one that some reader takes for it.
        """
        ours = {name.casefold() for name in self.meta}
        for name in message.meta:
            if name.casefold() in ours:
                raise InputError(
                    f"`_meta` may not hold `{name}`, which the gateway fills in: leave it out"
                )

    def put(
        self,
        message: Message | None,
        headers: list[tuple[str, str]],
        credential: Credential,
        *,
        method: str,
        url: str,
    ) -> tuple[Message | None, list[tuple[str, str]]]:
        """Return a request's message and headers with the credential in them.

        Raises:
            UpstreamError: the broker gave no such value, or one that does not fit.
        """
        headers = self.put_headers(headers, credential, method, url)
        if not self.meta or message is None:
            return message, headers
        filled = {name: fill(text, credential) for name, text in self.meta.items()}
        for name, value in filled.items():
            _require_text(value, f"member `{name}` of `_meta`")
        # A digest over the body that the client sent is none over this one.
        headers = [header for header in headers if header[0].lower() not in _OF_THE_BODY]
        return replace(message, body=with_meta(message.body, filled)), headers

    def environment_for(self, credential: Credential) -> dict[str, str]:
        """Return the variables that carry a credential into a process.

        Raises:
            UpstreamError: the broker gave no such value, or one that no variable can hold.
        """
        filled = {name: fill(text, credential) for name, text in self.environment.items()}
        for name, value in filled.items():
            _require_text(value, f"variable `{name}`")
            if "\0" in value:
                raise UpstreamError(f"the credential does not fit into variable `{name}`")
        return filled

    def certificate_for(self, credential: Credential | None) -> str | None:
        """Return the key and the certificate that a connection is made with (PEM), if one is.

        Raises:
            UpstreamError: the broker gave no such value.
        """
        if self.tls is None or credential is None:
            return None
        return fill(self.tls, credential)

    def headers_for(self, credential: Credential, method: str, url: str) -> list[tuple[str, str]]:
        """Return the headers that carry a credential in one request.

        Raises:
            UpstreamError: the broker gave no such value, or one that no header can hold.
        """
        filled = []
        for name, text in self.headers.items():
            if text == _PROOF and credential.prove is not None:
                token = credential.values.get("token")
                filled.append((name, credential.prove(method, url, token)))
            else:
                filled.append((name, fill(text, credential)))
        for name, value in filled:
            if _UNFIT.search(value) or not value.isascii():
                raise UpstreamError(f"the credential does not fit into header `{name}`")
        return filled

    def put_headers(
        self, headers: list[tuple[str, str]], credential: Credential, method: str, url: str
    ) -> list[tuple[str, str]]:
        """Put the credential's headers in the place of any of the same name.

        Raises:
            UpstreamError: the broker gave no such value, or one that no header can hold.
        """
        filled = self.headers_for(credential, method, url)
        ours = {name.lower() for name, _ in filled}
        return [*(header for header in headers if header[0].lower() not in ours), *filled]


def fill(template: str, credential: Credential) -> str:
    """Return a template with the credential's values in the places of their names.

    Raises:
        UpstreamError: the broker gave no value of that name.
    """

    def value(found: re.Match[str]) -> str:
        try:
            return credential.values[found[1]]
        except KeyError as error:
            known = ", ".join(f"`{{{name}}}`" for name in credential.values) or "nothing"
            raise UpstreamError(
                f"the broker gives no `{{{found[1]}}}` to inject; it gives {known}"
            ) from error

    return REFERENCE.sub(value, template)


def _require_meta_name(name: str) -> None:
    found = _META_NAME.match(name)
    labels = (found["prefix"] or "").rstrip("/").lower().split(".") if found else []
    reserved = name.casefold() in _RESERVED_NAMES or set(labels[:2]) & _RESERVED_LABELS
    if found is None or reserved:
        raise ConfigError(
            f"`{name}` is not a member of `_meta` that a credential can go into: "
            'give it a prefix of your own, as in `"com.example/token"`'
        )


def _require_text(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UpstreamError(f"the credential does not fit into {where}") from error
