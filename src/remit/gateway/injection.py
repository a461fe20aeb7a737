"""Where a minted credential goes on its way up: the operator's templates, filled for one call.

``{token}`` in a template is the broker's value of that name; the broker's page lists its values.
``{dpop}`` is a fresh proof for the one request (RFC 9449), where the token is bound to a key.
Nothing is logged, and an error names the reference, never a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from remit.model.errors import ConfigError, UpstreamError
from remit.model.lease import Credential

_REFERENCE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PROOF = "{dpop}"
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """Templates of header values, environment variables and ``_meta`` members, by name.

    Raises:
        ConfigError: a header that a credential must not set, or a name that is none.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.headers:
            if not _HEADER.match(name) or name.lower() in _OURS:
                raise ConfigError(f"`{name}` is not a header that a credential can go into")

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

    return _REFERENCE.sub(value, template)
