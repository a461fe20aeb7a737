"""A database as an MCP server of ours: two tools, `query` and `execute`, and no process behind.

:meth:`SqlUpstream.understand` reads the statement before anything is decided: its kind, tables and
columns stand among the call's arguments, where mandates bound them, policy sees them, an approver
reads them and evidence keeps them. What runs afterwards is read anew from the same text by the
same catalogue, so it is what was decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import msgspec
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from remit import __version__
from remit.gateway.forward import UnreachableError
from remit.gateway.governed import digest_of
from remit.gateway.messages import INVALID_PARAMS, METHOD_NOT_FOUND, rpc_error
from remit.gateway.options import UpstreamOptions
from remit.gateway.refusals import tool_result
from remit.gateway.reply import JSON
from remit.gateway.sql.lineage import Catalogue, Lineage, read
from remit.gateway.sql.options import SqlOptions
from remit.gateway.sql.running import RefusedError, parameters_of, run
from remit.gateway.stdio_answers import Whole
from remit.gateway.upstream import Answer, Outgoing
from remit.gateway.wire import Message
from remit.model.call import CALL_TOOL, Call
from remit.model.errors import ConfigError, InputError, UpstreamError

QUERY, EXECUTE = "query", "execute"
_GIVEN = frozenset({"sql", "parameters"})
_KEPT = 64
_READ_AT_ONCE = 2
_encoder = msgspec.json.Encoder()


class SqlUpstream:
    """One database. The credential comes with each request; none is kept, nor any connection."""

    def __init__(self, options: UpstreamOptions) -> None:
        if options.sql is None:
            raise ConfigError(f"upstream `{options.name}` names no `sql`")
        self.options = options
        self._sql: SqlOptions = options.sql
        catalogue = Catalogue(self._sql.tables, self._sql.default_schema)
        # A statement is read when it is decided and when it runs; reading one is costly work.
        self._lineage = lru_cache(_KEPT)(partial(read, catalogue=catalogue))
        self._reading = asyncio.Semaphore(_READ_AT_ONCE)
        self._trouble: str | None = "it was not asked yet"

    async def understand(self, call: Call) -> Call:
        """Return the call with what its statement touches among its arguments.

        Raises:
            InputError: the statement is refused.
        """
        if call.action != CALL_TOOL:
            return call
        lineage = await self._read(call.name, call.arguments)
        arguments = {
            **call.arguments,
            "statement": lineage.kind,
            "tables": list(lineage.tables),
            "reads": list(lineage.reads),
            "writes": list(lineage.writes),
        }
        digest = digest_of(call.action, call.target, arguments)
        return replace(call, arguments=arguments, digest=digest)

    async def _read(self, tool: str, arguments: Mapping[str, Any]) -> Lineage:
        if tool not in {QUERY, EXECUTE}:
            raise InputError(f"there is no tool `{tool[:64]}` here; `query` and `execute` are")
        if unknown := sorted(arguments.keys() - _GIVEN):
            raise InputError(f"argument `{unknown[0][:64]}` is not known; `sql`, `parameters` are")
        statement = arguments.get("sql")
        if not isinstance(statement, str):
            raise InputError("`sql` has to be a text with one statement")
        async with self._reading:
            lineage = await asyncio.to_thread(self._lineage, statement)
        if (lineage.kind == "select") != (tool == QUERY):
            other = QUERY if lineage.kind == "select" else EXECUTE
            raise InputError(f"{lineage.kind} is for the tool `{other}`")
        parameters_of(arguments.get("parameters"), lineage.parameters)
        return lineage

    async def send(self, request: Outgoing) -> Answer:
        """Answer one request.

        Raises:
            UnreachableError: the statement certainly did not run.
            UpstreamError: it may have.
        """
        message = request.message
        if message is None:
            return Whole(405, JSON, b"")
        if message.kind != "request":
            return Whole(202, JSON, b"")
        return Whole(200, JSON, await self._answer(message, request))

    async def _answer(self, message: Message, request: Outgoing) -> bytes:
        match message.method:
            case "tools/call":
                return await self._call(message, request)
            case "initialize" | "server/discover":
                self._trouble = None
                result: Mapping[str, Any] = _ABOUT
            case "tools/list":
                result = {"tools": self._tools()} | _CACHED
            case "ping":
                result = {}
            case other:
                text = f"method not found: `{other[:100]}`"
                return rpc_error(message.id, METHOD_NOT_FOUND, text)
        return _result(message, result)

    async def _call(self, message: Message, request: Outgoing) -> bytes:
        name, arguments = message.params.get("name"), message.params.get("arguments") or {}
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return rpc_error(
                message.id, INVALID_PARAMS, "a tool's name and its arguments are needed"
            )
        if request.credential is None:
            raise UnreachableError(
                f"upstream `{self.options.name}` has no credential: bind it to a broker"
            )
        try:
            lineage = await self._read(name, arguments)
            values = parameters_of(arguments.get("parameters"), lineage.parameters)
            found = await run(lineage, values, request.credential, self._sql)
        except (InputError, RefusedError) as error:
            return tool_result(message, str(error), failed=True)
        except UnreachableError as error:
            self._trouble = str(error)
            raise type(error)(f"upstream `{self.options.name}`: {error}") from error
        except UpstreamError as error:
            self._trouble = str(error)
            raise
        self._trouble = None
        body = found.json()
        return tool_result(message, body.decode(), structured=msgspec.json.decode(body))

    def _tools(self) -> list[dict[str, Any]]:
        tables = "; ".join(
            f"{table} ({', '.join(columns)})" for table, columns in self._sql.tables.items()
        )
        return [
            _tool(
                QUERY, f"Read with one SELECT in PostgreSQL's SQL. Tables: {tables}.", reads=True
            ),
            _tool(
                EXECUTE,
                f"Change with one INSERT, UPDATE or DELETE in PostgreSQL's SQL. Tables: {tables}.",
                reads=False,
            ),
        ]

    def health(self) -> str | None:
        """Return None where the last contact went well; the database is met only by calls."""
        return self._trouble

    async def retire(self, owner: str) -> None:
        """Nothing runs for an owner."""

    async def close(self) -> None:
        """Nothing is open."""


_CACHED = {"ttlMs": 0, "cacheScope": "private"}
_ABOUT = {
    "capabilities": {"tools": {}},
    "protocolVersion": LATEST_HANDSHAKE_VERSION,
    "serverInfo": {"name": "remit-sql", "version": __version__},
    "supportedVersions": [LATEST_MODERN_VERSION],
    **_CACHED,
}


def _tool(name: str, description: str, *, reads: bool) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "inputSchema": {
            "type": "object",
            "properties": {
                "sql": {"type": "string", "description": "One statement; values as $1, $2, …"},
                "parameters": {"type": "array", "description": "The values of $1, $2, …"},
            },
            "required": ["sql"],
            "additionalProperties": False,
        },
        "annotations": {
            "readOnlyHint": reads,
            "destructiveHint": not reads,
            "openWorldHint": False,
        },
    }


def _result(message: Message, result: Mapping[str, Any]) -> bytes:
    whole = {**result, "resultType": "complete"} if message.modern else dict(result)
    return _encoder.encode({"jsonrpc": "2.0", "id": message.id, "result": whole})
