"""What of an HTTP API may be called: operations, each a method and a path template, by name.

A request is matched against exactly one operation, or refused: its path segments, its query and
the members of its JSON body become the arguments of one call, every one of them, so that mandate
and policy see all that the API will see. What two readers could take for different requests is
refused: encoded slashes, dot segments, a name twice, a body that is not what its type says. The
path and the query that are sent are written anew from the arguments, so that what an escape meant
to us is what it means to the API.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, unquote_to_bytes

from remit.gateway.strict_json import read
from remit.model.errors import ConfigError, InputError, NotFoundError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
BODILESS = frozenset({"GET", "HEAD", "DELETE"})
"""Methods whose body has no meaning that servers agree on (RFC 9110 section 9.3)."""

BODY = "body"
"""The argument that a body of kind ``value`` becomes."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@-]+\Z")
_MEDIA = re.compile(r"application/([a-z0-9.-]+\+)?json\Z")
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPED_AGAIN = re.compile(r"%[0-9A-Fa-f]{2}")
_UNFIT = frozenset("/\\;?#")
"""In a segment: the ways up and out, and what some servers cut off (``;`` and behind)."""

_SAFE_IN_PATH = "!$&'()*+,=:@~"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing that an API does.

    ``path`` is relative to the service's address, ``/orders/{order}``: a parameter is one whole
    segment. ``query`` names the parameters that the query may hold. ``body`` says what it is:
    ``json``, an object whose members become arguments; ``value``, any JSON, which becomes the
    argument ``body`` as a whole; or none. ``media`` is the only content type of the body.
    """

    name: str
    method: str
    path: str
    query: tuple[str, ...] = ()
    body: Literal["json", "value", "none"] = "none"
    media: str = "application/json"
    description: str = ""
    segments: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        where = f"operation `{self.name}`"
        if not _NAME.match(self.name):
            raise ConfigError(f"{where}: a name is letters, digits, `_`, `.` and `-`, at most 128")
        if self.method not in METHODS:
            raise ConfigError(f"{where}: `method` is one of {', '.join(METHODS)}")
        if not self.path.startswith("/"):
            raise ConfigError(f"{where}: `path` starts with `/`, as in `/orders/{{order}}`")
        segments = tuple(self.path[1:].split("/")) if self.path != "/" else ()
        # An empty one at the end is a slash there, which an API may insist on.
        for segment in segments[:-1] if segments and not segments[-1] else segments:
            plain = _PLAIN.match(segment) and segment not in {".", ".."}
            if not plain and not _PARAMETER.match(segment):
                raise ConfigError(
                    f"{where}: `{segment}` is neither a plain path segment nor one `{{parameter}}`"
                )
        object.__setattr__(self, "segments", segments)
        names = [*self.parameters, *self.query, *([BODY] if self.body == "value" else [])]
        if len({name.casefold() for name in names}) != len(names):
            raise ConfigError(f"{where}: a parameter is named twice")
        if self.body != "none" and self.method in BODILESS:
            raise ConfigError(f"{where}: a {self.method} has no body")
        if not _MEDIA.match(self.media):
            raise ConfigError(f"{where}: `media` is application/json or application/…+json")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The path's parameters, in their order."""
        found = (_PARAMETER.match(segment) for segment in self.segments)
        return tuple(each[1] for each in found if each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came: ``path`` and ``query`` as they stand in its line, still escaped.

    ``media`` is the body's content type where it is plain UTF-8 of that type, or empty.
    """

    method: str
    path: bytes
    query: bytes = b""
    body: bytes = field(default=b"", repr=False)
    media: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Which operation a request is, and every argument of it.

    ``path`` and ``query`` are those to send: written from the arguments, escaped in one way.
    """

    operation: Operation
    arguments: Mapping[str, Any] = field(repr=False)
    path: str = field(repr=False)
    query: str = field(default="", repr=False)
    body: bytes = field(default=b"", repr=False)


class Operations:
    """The operations of one service."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Take in the operations of a service.

        Raises:
            ConfigError: two have one name, or are the same request.
        """
        shapes: dict[tuple[str, tuple[str, ...]], str] = {}
        names: set[str] = set()
        for each in operations:
            if each.name in names:
                raise ConfigError(f"two operations are named `{each.name}`")
            names.add(each.name)
            plain = ("{}" if _PARAMETER.match(s) else s.casefold() for s in each.segments)
            shape = (each.method, tuple(plain))
            if shape in shapes:
                raise ConfigError(
                    f"operations `{shapes[shape]}` and `{each.name}` are the same request"
                )
            shapes[shape] = each.name
        self.all = tuple(operations)

    def match(self, request: Request, *, max_depth: int = 64) -> Matched:
        """Return the operation and the arguments of a request.

        Raises:
            NotFoundError: it is no operation of this service.
            InputError: it is one, but says something twice, or that cannot be read in one way only.
        """
        segments = _segments(request.path)
        meant = [
            each
            for each in self.all
            if each.method == request.method and _fits(each, segments, exactly=False)
        ]
        # The one that is plain wherever another is plain: what every router would choose.
        chosen = [each for each in meant if all(_as_plain(each, other) for other in meant)]
        if not meant:
            raise NotFoundError(
                f"{request.method} on this path is no operation that this service offers here"
            )
        if len(chosen) != 1 or not _fits(chosen[0], segments, exactly=True):
            names = ", ".join(f"`{each.name}`" for each in meant[:5])
            raise InputError(f"the path could mean more than one thing to the service: {names}")
        return _read(chosen[0], segments, request, max_depth)


def _fits(operation: Operation, segments: Sequence[str], *, exactly: bool) -> bool:
    """Whether a path is one of an operation's; not exactly: to a server that knows no case."""
    if len(segments) != len(operation.segments):
        return False
    return all(
        (bool(text) if _PARAMETER.match(wanted) else text == wanted)
        or (not exactly and text.casefold() == wanted.casefold())
        for wanted, text in zip(operation.segments, segments, strict=True)
    )


def _as_plain(one: Operation, other: Operation) -> bool:
    """Whether ``one`` has a plain segment wherever ``other`` has one."""
    return all(
        _PARAMETER.match(theirs) or not _PARAMETER.match(ours)
        for ours, theirs in zip(one.segments, other.segments, strict=True)
    )


def _segments(path: bytes) -> list[str]:
    """Return each segment unescaped; an empty last one is a slash at the end.

    Raises:
        InputError: a path that servers read apart.
    """
    if not path.startswith(b"/") or not path.isascii() or _ESCAPE.search(path):
        raise InputError("the path is not one that is escaped as RFC 3986 has it")
    if path == b"/":
        return []
    found = []
    raws = path[1:].split(b"/")
    for position, raw in enumerate(raws):
        try:
            text = unquote_to_bytes(raw).decode()
        except UnicodeDecodeError as error:
            raise InputError("the path holds an escape that is no utf-8") from error
        last = position == len(raws) - 1
        if text in {".", ".."} or not _UNFIT.isdisjoint(text) or (not text and not last):
            raise InputError("the path has an empty, a dot or an ambiguous segment")
        if _ESCAPED_AGAIN.search(text):
            raise InputError("the path is escaped twice")
        if not text.isprintable():
            raise InputError("the path holds a character that cannot be printed")
        found.append(text)
    return found


def _read(
    operation: Operation, segments: Sequence[str], request: Request, max_depth: int
) -> Matched:
    arguments: dict[str, Any] = {}
    for wanted, text in zip(operation.segments, segments, strict=True):
        if parameter := _PARAMETER.match(wanted):
            arguments[parameter[1]] = text
    pairs = _query(request.query)
    for name, value in pairs:
        if name not in operation.query:
            shown = name[:60]
            raise InputError(
                f"the query may not hold `{shown}`: `{operation.name}` does not know it"
            )
        _put(arguments, name, value)
    _body(operation, request, arguments, max_depth)
    return Matched(
        operation=operation,
        arguments=arguments,
        path="/" + "/".join(quote(text, safe=_SAFE_IN_PATH) for text in segments),
        query="&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs),
        body=request.body,
    )


def _body(
    operation: Operation, request: Request, arguments: dict[str, Any], max_depth: int
) -> None:
    if operation.body == "none":
        if request.body:
            raise InputError(f"`{operation.name}` has no body")
        return
    if request.media != operation.media:
        raise InputError(f"the body has to be {operation.media} in utf-8, and not compressed")
    value = read(request.body, max_depth=max_depth)
    if operation.body == "value":
        _put(arguments, BODY, value)
        return
    if not isinstance(value, dict):
        raise InputError("the body has to be a json object: its members are the arguments")
    # A member named like a parameter that was left out would read as that parameter.
    elsewhere = {name.casefold() for name in (*operation.parameters, *operation.query)}
    for name, each in value.items():
        if name.casefold() in elsewhere:
            raise InputError(f"`{name[:60]}` belongs into the path or the query, not the body")
        _put(arguments, name, each)


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
        if any("\x00" in text for text in texts):
            raise InputError("the query holds a null, where some readers end")
        pairs.append((texts[0], texts[1]))
    return pairs


def _put(arguments: dict[str, Any], name: str, value: Any) -> None:
    if name in arguments:
        raise InputError(f"`{name[:60]}` is given twice")
    if any(name.casefold() == other.casefold() for other in arguments):
        raise InputError(f"`{name[:60]}` is given twice, in another case")
    arguments[name] = value
