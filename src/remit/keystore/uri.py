"""Reads a PKCS#11 URI (RFC 7512) strictly: what is not understood is refused, not passed over.

The standard lets a consumer choose. Here a URI has to name one key in one token by labels, the
module by an absolute path, and where the PIN lies; a PIN in the URI itself is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from remit.model.errors import ConfigError

MAX_CHARACTERS = 2048
_SCHEME = "pkcs11:"
_PATH = frozenset({"token", "object", "id", "type", "serial", "manufacturer", "model"})
_QUERY = frozenset({"module-path", "pin-source"})
_LONGEST = {"token": 32, "serial": 16, "manufacturer": 32, "model": 16, "object": 255, "id": 255}
"""In bytes: the token's are the fields of CK_TOKEN_INFO (PKCS #11, 3.2)."""
# RFC 7512, 2.3: pk11-pchar, without the percent.
_ALLOWED = re.compile(r"(?:[A-Za-z0-9_.~:\[\]@!$'()*+,=&-]|%[0-9A-Fa-f]{2})*\Z")
_ALLOWED_IN_QUERY = re.compile(r"(?:[A-Za-z0-9_.~:\[\]@!$'()*+,=/?|-]|%[0-9A-Fa-f]{2})*\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_FIRST_PRINTABLE, _DELETE = 0x20, 0x7F


@dataclass(frozen=True, slots=True, kw_only=True)
class PinSource:
    """Where the PIN lies: in a file, or in a variable of the environment."""

    file: Path | None = None
    variable: str | None = None

    @property
    def words(self) -> str:
        """What messages call it."""
        return f"the file `{self.file}`" if self.file else f"the variable `{self.variable}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11Uri:
    """One key in one token, how to reach it, and where its PIN lies."""

    token: str
    object: str
    module: Path
    pin: PinSource
    id: bytes | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    shown: str = field(compare=False)
    """The URI without its query: what messages show."""


def parse_uri(uri: str) -> Pkcs11Uri:
    """Read a URI.

    Raises:
        ConfigError: it is not a PKCS#11 URI, or says too little, too much, or a PIN.
    """
    if not uri.startswith(_SCHEME):
        raise ConfigError("a PKCS#11 URI starts with `pkcs11:`")
    if len(uri) > MAX_CHARACTERS:
        raise ConfigError(f"a PKCS#11 URI has at most {MAX_CHARACTERS} characters here")
    path, _, query = uri.removeprefix(_SCHEME).partition("?")
    said = _attributes(path, ";", _ALLOWED, _PATH)
    asked = _attributes(query, "&", _ALLOWED_IN_QUERY, _QUERY)
    if said.get("type", b"private") != b"private":
        raise ConfigError("a PKCS#11 URI names a key that signs here: `type=private`, or no `type`")
    for name, most in _LONGEST.items():
        if name in said and not 0 < len(said[name]) <= most:
            raise ConfigError(f"`{name}` in a PKCS#11 URI has 1 to {most} bytes")
    texts = {name: _text(name, value) for name, value in said.items() if name not in {"id", "type"}}
    for name in ("token", "object"):
        if name not in texts:
            raise ConfigError(f"a PKCS#11 URI wants `{name}=…` here, the label of the {name}")
    return Pkcs11Uri(
        token=texts["token"],
        object=texts["object"],
        serial=texts.get("serial"),
        manufacturer=texts.get("manufacturer"),
        model=texts.get("model"),
        id=said.get("id"),
        module=_module(asked),
        pin=_pin_source(asked),
        shown=_SCHEME + path,
    )


def _attributes(
    text: str, separator: str, allowed: re.Pattern[str], known: frozenset[str]
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise ConfigError(
                "a PIN has no place in a PKCS#11 URI: write it to a file of mode 0600, and "
                "`pin-source=file:/path/of/it`"
            )
        if not equals or name not in known:
            # What stands there is not shown: it may be a PIN that was put in the wrong place.
            raise ConfigError(
                "a PKCS#11 URI has an attribute that is not known here: these are: "
                + ", ".join(f"`{each}`" for each in sorted(_PATH))
                + ", and behind a `?` "
                + ", ".join(f"`{each}`" for each in sorted(_QUERY))
            )
        if name in found:
            raise ConfigError(f"a PKCS#11 URI has `{name}` twice")
        if not allowed.match(value):
            raise ConfigError(
                f"`{name}` in a PKCS#11 URI has a character that has to be written as %XX (RFC 7512)"
            )
        found[name] = _decoded(value)
    return found


def _decoded(value: str) -> bytes:
    return re.sub(
        rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), value.encode("ascii")
    )


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"`{name}` in a PKCS#11 URI is not UTF-8") from error
    if any(ord(c) < _FIRST_PRINTABLE or ord(c) == _DELETE for c in text) or not text.isprintable():
        raise ConfigError(f"`{name}` in a PKCS#11 URI has a character that cannot be printed")
    return text


def _module(asked: dict[str, bytes]) -> Path:
    if "module-path" not in asked:
        raise ConfigError(
            "a PKCS#11 URI wants `?module-path=…` here, the token's library: as "
            "/usr/lib/softhsm/libsofthsm2.so"
        )
    path = Path(_text("module-path", asked["module-path"]))
    if not path.is_absolute():
        # A bare name would be looked for along a path that the environment can set.
        raise ConfigError("`module-path` in a PKCS#11 URI is an absolute path")
    return path


def _pin_source(asked: dict[str, bytes]) -> PinSource:
    if "pin-source" not in asked:
        raise ConfigError(
            "a PKCS#11 URI wants `pin-source=file:/path` or `pin-source=env:NAME` here: "
            "nobody is there to type a PIN"
        )
    scheme, colon, rest = _text("pin-source", asked["pin-source"]).partition(":")
    if colon and scheme == "file":
        rest = rest.removeprefix("//") if rest.startswith("///") else rest
        if rest.startswith("/") and not rest.startswith("//"):  # `//host/path` is elsewhere
            return PinSource(file=Path(rest))
    if colon and scheme == "env" and _VARIABLE.match(rest):
        return PinSource(variable=rest)
    raise ConfigError(
        "`pin-source` in a PKCS#11 URI is `file:/absolute/path` or `env:NAME`: no program is run "
        "for a PIN"
    )
