"""The CLI's way to the authority: HTTP over its Unix socket, known by the kernel's word."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from remit.model.errors import InputError, RemitError

TIMEOUT_SECONDS = 120.0


class UnreachableError(RemitError):
    """No authority answers on the control socket."""

    code = "unreachable"


class RefusedError(RemitError):
    """The authority answered with an error."""

    code = "refused"

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message", f"the authority answered {status}")))
        self.answered = status
        self.error = error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


class ControlClient:
    """Asks the control API; every method raises the errors below.

    Raises:
        UnreachableError: nothing listens there, or it went away.
        RefusedError: the authority said no; the message is its own.
        InputError: a part of the path is no single name or id; nothing was asked.
    """

    def __init__(self, control_socket: Path) -> None:
        self._socket = control_socket

    def get(self, *parts: str, **query: str | int | None) -> Any:
        """GET a route and return its JSON."""
        return _json(self.ask("GET", parts, query=query))

    def post(self, *parts: str, body: object = None) -> Any:
        """POST JSON to a route and return its JSON."""
        return _json(self.ask("POST", parts, body={} if body is None else body))

    def patch(self, *parts: str, body: object) -> Any:
        """PATCH JSON onto a route and return its JSON."""
        return _json(self.ask("PATCH", parts, body=body))

    def raw(self, *parts: str) -> bytes:
        """GET a route and return its bytes."""
        return self.ask("GET", parts)

    def ask(
        self,
        method: str,
        parts: tuple[str, ...],
        *,
        query: dict[str, str | int | None] | None = None,
        body: object = None,
    ) -> bytes:
        """Make one request."""
        path = "/" + "/".join(_segment(part) for part in parts)
        asked = {key: value for key, value in (query or {}).items() if value is not None}
        if asked:
            path += "?" + urlencode(asked, errors="surrogateescape")
        connection = _UnixConnection(self._socket)
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers={} if body is None else {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"no authority answers at `{self._socket}`: start one with `remit up`"
            ) from error
        finally:
            connection.close()
        if response.status >= http.client.MULTIPLE_CHOICES:
            raise RefusedError(response.status, _error(data))
        return data


def _segment(part: str) -> str:
    # Each is one name or id: never a way to another route.
    if part in {"", ".", ".."} or "/" in part:
        raise InputError(f"`{part}` is no name and no id")
    return quote(part, safe="", errors="surrogateescape")


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise UnreachableError("what answers on the control socket is no authority") from error


def _error(data: bytes) -> dict[str, Any]:
    try:
        error = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
