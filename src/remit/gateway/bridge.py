"""Standard input and output in front, the gateway's HTTP behind: for clients that start a process.

The bridge keeps no secret: it asks for an identity whenever it needs one, adds it to each request,
and never prints it. With each it proves that it holds a key, made at its start and never written
anywhere, so that what it sends is of no use to whoever captures it (RFC 9449). It is a client like any other to the gateway, which trusts it no
further; so what it adds to a message (the 2026 era's routing headers) is checked there.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, BinaryIO, Protocol

import aiohttp
import msgspec
import structlog

from remit.gateway.messages import GOVERNED, INTERNAL_ERROR, PARSE_ERROR, RequestId, peek, rpc_error
from remit.gateway.options import MEBIBYTE
from remit.gateway.sse import EventReader
from remit.model.errors import RemitError, UpstreamError
from remit.proof.dpop import ProofKey

log = structlog.get_logger()

_MAX_BYTES = 16 * MEBIBYTE
_CONNECT_SECONDS = 10
_END_SECONDS = 3
_RETRY_SECONDS = 1.0
_SESSION = "mcp-session-id"
_VERSION_META = "io.modelcontextprotocol/protocolVersion"
_PARAM_HEADER = b'"x-mcp-header"'
_PLAIN = re.compile(r"[A-Za-z0-9_./:-]+\Z")
_VERSION = "mcp-protocol-version"


class Reader(Protocol):
    """Where lines come from."""

    async def readline(self) -> bytes:
        """Return the next line with its end, or nothing at the end."""
        ...


Write = Callable[[bytes], None]
Token = Callable[[], Awaitable[str]]


async def bridge(
    url: str,
    *,
    token: Token,
    task_token: str | None = None,
    key: ProofKey | None = None,
    reader: Reader | None = None,
    write: Write | None = None,
) -> None:
    """Carry MCP between standard input and output and a gateway, until the input ends.

    Args:
        url: the gateway's endpoint, ``https://…/mcp/<upstream>``.
        token: returns the workload's current token; called for every request.
        task_token: sent as ``Remit-Task`` where there is one.
        key: proves each request; where the tokens are bound to a key, it is this one.
        reader: instead of standard input.
        write: instead of standard output; gets whole lines.
    """
    lines = reader or await _standard_input()
    key = key or ProofKey.generate()
    made = _Bridge(url, token, task_token, key, write or _writer(sys.stdout.buffer))
    try:
        while line := await lines.readline():
            if line.strip():
                made.take(line.strip())
        await made.rest()
    finally:
        await made.close()


class _Bridge:
    def __init__(
        self, url: str, token: Token, task_token: str | None, key: ProofKey, write: Write
    ) -> None:
        self._url = url
        self._token = token
        self._task_token = task_token
        self._key = key
        self._write = write
        self._session_id: str | None = None
        self._version: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[RequestId, asyncio.Task[None]] = {}
        self._order: asyncio.Task[None] | None = None
        self._stream: asyncio.Task[None] | None = None
        self._schemas: dict[str, Any] = {}
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    def take(self, line: bytes) -> None:
        """Begin to carry one message; the handshake's messages are carried in their order."""
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._say(rpc_error(None, PARSE_ERROR, "the line is not json"))
            return
        message = message if isinstance(message, dict) else {}
        method = message.get("method")
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        meta = params.get("_meta")
        version = meta.get(_VERSION_META) if isinstance(meta, dict) else None
        if method == "notifications/cancelled" and self._version is None:
            # The newer era has no such message over HTTP: closing the stream is the signal.
            asked = self._asked.get(params.get("requestId") or "")
            if asked is not None:
                asked.cancel()
            return
        headers = self._headers_for(method, params, version)
        known = message.get("id")
        request_id = known if isinstance(known, str | int) and method is not None else None
        task = asyncio.create_task(self._carry(line, headers, method, request_id, self._order))
        if method in {"initialize", "notifications/initialized"}:
            self._order = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if request_id is not None:
            self._asked[request_id] = task

    async def rest(self) -> None:
        """Wait a little for what is still under way when the input has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END_SECONDS)

    async def close(self) -> None:
        """End the session and the connections."""
        running = [*self._tasks, *([self._stream] if self._stream is not None else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._session_id is not None:
            try:
                async with asyncio.timeout(_END_SECONDS):
                    headers = await self._headers("DELETE", {})
                    async with self._http.delete(self._url, headers=headers):
                        pass
            except (aiohttp.ClientError, TimeoutError, RemitError, OSError):
                log.debug("the session could not be ended")
        await self._http.close()

    def _headers_for(self, method: Any, params: Mapping[str, Any], version: Any) -> dict[str, str]:
        """Return the routing headers of the newer era (MCP 2026-07-28, transports)."""
        if not isinstance(method, str) or not isinstance(version, str):
            return {}
        headers = {_VERSION: version, "mcp-method": method}
        if method in GOVERNED:
            name = params.get(GOVERNED[method][1])
            if isinstance(name, str):
                headers["mcp-name"] = _header_value(name)
            arguments = params.get("arguments")
            schema = self._schemas.get(str(name))
            if method == "tools/call" and schema is not None and isinstance(arguments, dict):
                headers |= _param_headers(schema, arguments)
        return headers

    async def _headers(self, http_method: str, more: Mapping[str, str]) -> dict[str, str]:
        token = await self._token()
        headers = {
            "authorization": f"DPoP {token}",
            "dpop": self._key.prove(http_method, self._url, token),
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }
        if self._task_token is not None:
            headers["remit-task"] = self._task_token
        if self._session_id is not None:
            headers[_SESSION] = self._session_id
        if self._version is not None:
            headers[_VERSION] = self._version
        return headers | dict(more)

    async def _carry(
        self,
        line: bytes,
        more: Mapping[str, str],
        method: Any,
        request_id: RequestId | None,
        after: asyncio.Task[None] | None,
    ) -> None:
        try:
            if after is not None:
                await asyncio.wait({after})
            await self._post(line, more, method, request_id)
        except (aiohttp.ClientError, TimeoutError, OSError, RemitError) as error:
            reason = str(error) if isinstance(error, RemitError) else type(error).__name__
            log.warning("the gateway could not be asked", reason=reason)
            if request_id is not None:
                words = f"the gateway could not be asked: {reason}"
                self._say(rpc_error(request_id, INTERNAL_ERROR, words))
        finally:
            if request_id is not None and self._asked.get(request_id) is asyncio.current_task():
                del self._asked[request_id]

    async def _post(
        self, line: bytes, more: Mapping[str, str], method: Any, request_id: RequestId | None
    ) -> None:
        headers = await self._headers("POST", more)
        async with self._http.post(self._url, data=line, headers=headers) as got:
            if request_id is None:
                if method == "notifications/initialized" and self._session_id is not None:
                    self._stream = asyncio.create_task(self._listen())
                return
            if method == "initialize":
                self._session_id = got.headers.get(_SESSION)
            answered = False
            if got.content_type == "text/event-stream":
                answered = await self._events(got, method)
            else:
                body = await got.read()
                answered = _is_answer(body)
                if answered:
                    self._told(body if got.ok else _addressed(body, request_id), method)
            if not answered:
                words = f"the gateway answered with http status {got.status} and no response"
                self._say(rpc_error(request_id, INTERNAL_ERROR, words))

    async def _events(self, got: aiohttp.ClientResponse, method: Any) -> bool:
        """Say what a stream brings; return whether a response was in it."""
        events = EventReader(_MAX_BYTES)
        answered = False
        async for chunk in got.content.iter_any():
            for event in events.feed(chunk):
                if event.data:
                    final = peek(event.data).final
                    answered = answered or final
                    self._told(event.data, method if final else None)
        return answered

    async def _listen(self) -> None:
        """Keep the session's stream of what belongs to no request (2025 era)."""
        while True:
            try:
                headers = await self._headers("GET", {"accept": "text/event-stream"})
                async with self._http.get(self._url, headers=headers) as got:
                    if not got.ok or got.content_type != "text/event-stream":
                        return
                    await self._events(got, None)
            except (aiohttp.ClientError, UpstreamError, OSError, TimeoutError):
                log.debug("the session's stream broke")
            await asyncio.sleep(_RETRY_SECONDS)

    def _told(self, data: bytes, method: Any) -> None:
        """Say a message, and remember of it what later requests need."""
        if method == "initialize":
            self._version = _at(data, "protocolVersion")
        elif method == "tools/list":
            for tool in _at(data, "tools") or []:
                if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                    schema = tool.get("inputSchema")
                    marked = schema is not None and _PARAM_HEADER in msgspec.json.encode(schema)
                    # A changed tool may have lost its mark: what is not marked is forgotten.
                    self._schemas[tool["name"]] = schema if marked else None
        self._say(data)

    def _say(self, data: bytes) -> None:
        self._write(data.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")


def _header_value(name: str) -> str:
    """Return a name as a header carries it; the usual ones are carried as they are."""
    if _PLAIN.match(name):
        return name
    # The SDK takes the better part of a second to import, and few clients need it.
    from mcp.shared.inbound import encode_header_value  # noqa: PLC0415

    return encode_header_value(name)


def _param_headers(schema: Any, arguments: Mapping[str, Any]) -> dict[str, str]:
    from mcp.shared.inbound import mcp_param_headers, x_mcp_header_map  # noqa: PLC0415 - as above

    return mcp_param_headers(x_mcp_header_map(schema), arguments)


def _is_answer(body: bytes) -> bool:
    try:
        return peek(body).final
    except UpstreamError:
        return False


def _addressed(body: bytes, request_id: RequestId) -> bytes:
    """Give a refusal that named no request the id of the request it answers."""
    message = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if message.get("id", msgspec.Raw(b"null")) == msgspec.Raw(b"null"):
        message["id"] = msgspec.Raw(msgspec.json.encode(request_id))
    return msgspec.json.encode(message)


def _at(data: bytes, key: str) -> Any:
    result = msgspec.json.decode(data).get("result")
    return result.get(key) if isinstance(result, dict) else None


class _FileReader:
    """Lines of an input that no event loop can watch: a regular file, or /dev/null."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    async def readline(self) -> bytes:
        """Return the next line with its end, or nothing at the end."""
        return await asyncio.to_thread(self._file.readline, _MAX_BYTES)


async def _standard_input() -> Reader:
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdin.isatty()):
        return _FileReader(sys.stdin.buffer)
    reader = asyncio.StreamReader(limit=_MAX_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    return reader


def _writer(out: BinaryIO) -> Write:
    def write(line: bytes) -> None:
        out.write(line)
        out.flush()

    return write
