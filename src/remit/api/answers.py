"""What the control routes answer: JSON, errors by whose fault they are, pages with a cursor."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from remit.identity.dpop import challenge
from remit.model.errors import InputError, ProofError, RemitError, UnidentifiedError
from remit.proof.encoding import parse_strict

log = structlog.get_logger()

T = TypeVar("T")

MAX_BODY_BYTES = 256 * 1024
PAGE = 50
MAX_PAGE = 500
_NUMBER = re.compile(r"[0-9]{1,10}\Z")

Handler = Callable[[Request], Awaitable[Response]]


def answer(value: object, status: int = 200) -> Response:
    """Return ``value`` as JSON."""
    return Response(
        msgspec.json.encode(plain(value)),
        status,
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )


def plain(value: object) -> Any:
    """Return a noun as plain JSON values."""
    return msgspec.to_builtins(value, enc_hook=str, str_keys=True)


def page(items: Sequence[object], cursor: Callable[[Any], str], limit: int) -> Response:
    """Return one page; ``next`` is what to pass as ``after`` for the one that follows, or null."""
    following = cursor(items[-1]) if len(items) >= limit else None
    return answer({"items": [plain(item) for item in items], "next": following})


def limit_of(request: Request) -> int:
    """Return the page size that was asked for.

    Raises:
        InputError: it is no number from 1 to 500.
    """
    text = request.query_params.get("limit", str(PAGE))
    if not number(text) or not 1 <= int(text) <= MAX_PAGE:
        raise InputError(f"`limit` is a number from 1 to {MAX_PAGE}, not `{text[:20]}`")
    return int(text)


def number(text: str) -> bool:
    """Return whether ``text`` is a number that `int` reads: ASCII digits, and not too many."""
    return _NUMBER.match(text) is not None


async def body_of(request: Request, shape: type[T]) -> T:
    """Read the request's body as ``shape``; fields it does not know are refused.

    Raises:
        InputError: too long, not JSON, JSON that means two things, or not of that shape.
    """
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > MAX_BODY_BYTES:
            raise InputError(f"the body is longer than {MAX_BODY_BYTES} bytes")
    data = bytes(read) or b"{}"
    try:
        parse_strict(data)
        return msgspec.json.decode(data, type=shape)
    except RecursionError as error:
        raise InputError("the body is nested too deeply") from error
    except (ProofError, msgspec.DecodeError, UnicodeDecodeError) as error:
        message = str(error)
        raise InputError(f"the body: {message[:1].lower()}{message[1:]}") from error


def guarded(handler: Handler) -> Handler:
    """Answer a RemitError with its status, and anything else with 500 and no details."""

    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except RemitError as error:
            return refused(await _noted(request, error))
        except Exception:
            log.exception("a control route broke", path=request.url.path)
            return answer({"error": {"code": "internal", "message": "remit failed inside"}}, 500)

    return run


async def _noted(request: Request, error: RemitError) -> RemitError:
    """Note a refusal where the application wants that; return what is to be told."""
    state = getattr(request.scope.get("app"), "state", None)
    refusals = getattr(state, "refusals", None)
    if refusals is not None:
        try:
            await refusals.noted(request, error)
        except RemitError as lost:
            return lost
    return error


def refused(error: RemitError, extra: Mapping[str, object] | None = None) -> Response:
    """Return an error as the control routes write it."""
    told = answer(
        {"error": {"code": error.code, "message": _line(str(error)), **(extra or {})}}, error.status
    )
    if isinstance(error, UnidentifiedError):
        told.headers["www-authenticate"] = challenge(error)
    return told


def _line(message: str) -> str:
    # A message shows its input, and an input may hold what ends a line or drives a terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
