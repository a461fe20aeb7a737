"""What of an HTTP API may be called: operations, each a method and a path template, by name.

A request is matched against exactly one operation, or refused: its path segments, its query and
the members of its JSON body become the arguments of one call, every one of them, so that mandate
and policy see all that the API will see. What two readers could take for different requests is
refused: encoded slashes, dot segments, a name twice, a body that is not what its type says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from remit.gateway.strict_json import read
from remit.model.errors import ConfigError, InputError, NotFoundError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+\Z")
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNFIT = ("/", "\\", "\x00")
_BODY = "body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing that an API does.

    ``path`` is relative to the service's address, ``/orders/{order}``: a parameter is one whole
    segment. ``query`` names the parameters that the query may hold. ``body`` says whether there is
    one: ``json`` (its members become arguments) or none.
    """

    name: str
    method: str
    path: str
    query: tuple[str, ...] = ()
    body: Literal["json", "none"] = "none"
    description: str = ""
    segments: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        where = f"operation `{self.name}`"
        if not _NAME.match(self.name):
            raise ConfigError(f"{where}: a name is letters, digits, `_`, `.` and `-`")
        if self.method not in METHODS:
            raise ConfigError(f"{where}: `method` is one of {', '.join(METHODS)}")
        if not self.path.startswith("/"):
            raise ConfigError(f"{where}: `path` starts with `/`, as in `/orders/{{order}}`")
        segments = tuple(self.path[1:].split("/")) if self.path != "/" else ()
        for segment in segments:
            plain = _PLAIN.match(segment) and segment not in {".", ".."}
            if not plain and not _PARAMETER.match(segment):
                raise ConfigError(
                    f"{where}: `{segment}` is neither a plain path segment nor one `{{parameter}}`"
                )
        object.__setattr__(self, "segments", segments)
        names = [*self.parameters, *self.query]
        if len(set(names)) != len(names):
            raise ConfigError(f"{where}: a parameter is named twice")
        if self.body == "json" and self.method in {"GET", "HEAD", "DELETE"}:
            raise ConfigError(f"{where}: a {self.method} has no body")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The path's parameters, in their order."""
        found = (_PARAMETER.match(segment) for segment in self.segments)
        return tuple(each[1] for each in found if each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came: ``path`` and ``query`` as they stand in its line, still escaped."""

    method: str
    path: bytes
    query: bytes = b""
    body: bytes = field(default=b"", repr=False)
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Which operation a request is, and every argument of it."""

    operation: Operation
    arguments: Mapping[str, Any] = field(repr=False)


class Operations:
    """The operations of one service."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Order the operations so that a plain segment wins over a parameter.

        Raises:
            ConfigError: two have one name, or could both be meant by one request.
        """
        shapes: dict[tuple[str, tuple[str, ...]], str] = {}
        names: set[str] = set()
        for each in operations:
            if each.name in names:
                raise ConfigError(f"two operations are named `{each.name}`")
            names.add(each.name)
            shape = (each.method, tuple("{}" if _PARAMETER.match(s) else s for s in each.segments))
            if shape in shapes:
                raise ConfigError(
                    f"operations `{shapes[shape]}` and `{each.name}` are the same request"
                )
            shapes[shape] = each.name
        self.all = tuple(operations)
        self._ordered = sorted(
            operations, key=lambda each: [bool(_PARAMETER.match(s)) for s in each.segments]
        )

    def match(self, request: Request, *, max_depth: int = 64) -> Matched:
        """Return the operation and the arguments of a request.

        Raises:
            NotFoundError: it is no operation of this service.
            InputError: it is one, but says something twice, or that cannot be read in one way only.
        """
        segments = _segments(request.path)
        for operation in self._ordered:
            if operation.method == request.method:
                found = _matched(operation, segments)
                if found is not None:
                    return Matched(
                        operation=operation,
                        arguments=_arguments(operation, found, request, max_depth),
                    )
        raise NotFoundError(
            f"{request.method} on this path is no operation that this service offers here"
        )


def _segments(path: bytes) -> list[tuple[str, str]]:
    """Return each segment as it stands and unescaped.

    Raises:
        InputError: a path that servers read apart.
    """
    if not path.startswith(b"/") or not path.isascii() or _ESCAPE.search(path):
        raise InputError("the path is not one that is escaped as RFC 3986 has it")
    if path == b"/":
        return []
    found = []
    for raw in path[1:].split(b"/"):
        try:
            text = unquote_to_bytes(raw).decode()
        except UnicodeDecodeError as error:
            raise InputError("the path holds an escape that is no utf-8") from error
        if text in {"", ".", ".."} or any(sign in text for sign in _UNFIT):
            raise InputError("the path has an empty, a dot or an ambiguous segment")
        if not text.isprintable():
            raise InputError("the path holds a character that cannot be printed")
        found.append((raw.decode("ascii"), text))
    return found


def _matched(operation: Operation, segments: list[tuple[str, str]]) -> dict[str, Any] | None:
    if len(segments) != len(operation.segments):
        return None
    arguments: dict[str, Any] = {}
    for wanted, (raw, text) in zip(operation.segments, segments, strict=True):
        parameter = _PARAMETER.match(wanted)
        if parameter:
            arguments[parameter[1]] = text
        elif raw != wanted:
            return None
    return arguments


def _arguments(
    operation: Operation, found: dict[str, Any], request: Request, max_depth: int
) -> Mapping[str, Any]:
    for name, value in _query(request.query):
        if name not in operation.query:
            shown = name[:60]
            raise InputError(
                f"the query may not hold `{shown}`: `{operation.name}` does not know it"
            )
        _put(found, name, value)
    if operation.body == "none":
        if request.body:
            raise InputError(f"`{operation.name}` has no body")
        return found
    if not request.json:
        raise InputError("the body has to be application/json in utf-8, and not compressed")
    value = read(request.body, max_depth=max_depth)
    if isinstance(value, dict):
        for name, each in value.items():
            _put(found, name, each)
    else:
        _put(found, _BODY, value)
    return found


def _query(query: bytes) -> list[tuple[str, str]]:
    """Return the query's pairs (the form encoding of WHATWG URL).

    Raises:
        InputError: an escape that is none, or text that is no UTF-8.
    """
    if not query:
        return []
    if not query.isascii() or _ESCAPE.search(query) or b";" in query:
        raise InputError("the query is not one that is escaped in the usual way")
    pairs = []
    for part in query.split(b"&"):
        name, equals, value = part.partition(b"=")
        if not name or not equals:
            raise InputError("the query has a part that is no `name=value`")
        try:
            texts = [unquote_to_bytes(each.replace(b"+", b" ")).decode() for each in (name, value)]
        except UnicodeDecodeError as error:
            raise InputError("the query holds an escape that is no utf-8") from error
        pairs.append((texts[0], texts[1]))
    return pairs


def _put(arguments: dict[str, Any], name: str, value: Any) -> None:
    if name in arguments:
        raise InputError(f"`{name[:60]}` is given twice")
    if any(name.casefold() == other.casefold() for other in arguments):
        raise InputError(f"`{name[:60]}` is given twice, in another case")
    arguments[name] = value
