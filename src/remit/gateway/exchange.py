"""One POST: parsed once, then governed, filtered, answered by Remit itself, or forwarded as bytes."""

from __future__ import annotations

from dataclasses import replace

from mcp.shared.inbound import validate_mcp_param_headers

from remit.gateway import handles, listing, own_tools
from remit.gateway.doorway import Visit, task_of
from remit.gateway.flight import Flight
from remit.gateway.governed import call_of
from remit.gateway.house import House
from remit.gateway.incoming import require_none
from remit.gateway.leaks import clean_headers
from remit.gateway.messages import GOVERNED, INVALID_PARAMS, METHOD_NOT_FOUND
from remit.gateway.refusals import failure, refusal
from remit.gateway.relay import Seen, hold, pass_on
from remit.gateway.reply import Reply
from remit.gateway.sessions import Session
from remit.gateway.upstream import Outgoing, Understanding
from remit.gateway.wire import Message, ProtocolError, headers_up
from remit.model.errors import (
    EvidenceError,
    InputError,
    MandateError,
    RemitError,
    UnidentifiedError,
    UpstreamError,
)
from remit.model.outcome import Ending
from remit.model.record import Context

FORWARDED = frozenset(
    {
        "initialize",
        "server/discover",
        "ping",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/subscribe",
        "resources/unsubscribe",
        "prompts/list",
        "completion/complete",
        "logging/setLevel",
        "subscriptions/listen",
        "tasks/get",
        "tasks/list",
        "tasks/result",
        "tasks/update",
        "tasks/cancel",
    }
)
"""Requests that are forwarded for an identified caller without a decision."""


GONE = 404
"""What an upstream answers in a session that it no longer knows."""


class Exchange:
    """One POST of one identified caller to one upstream."""

    def __init__(self, house: House, visit: Visit, reply: Reply) -> None:
        self._house = house
        self._visit = visit
        self._upstream = visit.upstream
        self._reply = reply
        self._flight: Flight | None = None

    def leave(self) -> bool:
        """Say that the client is gone; return whether the work goes on all the same."""
        return self._flight is not None and self._flight.leave()

    async def run(self, message: Message) -> None:
        """Answer one message.

        Raises:
            RemitError: it is refused as a whole; nothing was forwarded.
        """
        self._require_known(message)
        if message.method not in GOVERNED:
            await self._require_clean(message, Context())
        task = await self._bound_task(message)
        if message.kind != "request":
            await self._forward(message)
        elif own_tools.is_own(message, self._visit.claim, self._visit.subject):
            await own_tools.answer(self._house, message, self._visit.subject, self._reply)
        elif message.method in GOVERNED:
            await self._govern(message)
        elif message.method in {"tools/list", handles.LIST}:
            await self._list(message)
        elif message.method == "initialize":
            await self._initialize(message, task)
        else:
            if message.method in handles.ABOUT_ONE:
                self._house.handles.require(self._visit.name, self._visit.owner, message)
            await self._forward(message)

    def _require_known(self, message: Message) -> None:
        method = message.method
        known = method in GOVERNED or method in FORWARDED
        if message.modern and method in handles.OLDER:
            known = False
        if message.kind == "request" and not known:
            raise ProtocolError(
                f"method not found: the gateway does not know `{method[:100]}`",
                code=METHOD_NOT_FOUND,
                http_status=404 if message.modern else 200,
                request_id=message.id,
            )

    async def _bound_task(self, message: Message) -> str | None:
        """Hold the session against its owner and task; the hot modern path has none."""
        session = self._visit.head.session
        governed = message.method in GOVERNED
        if session is None and governed:
            return None
        task = await task_of(self._visit.claim, self._visit.subject, self._house.authority)
        if session is not None and message.method != "initialize":
            self._house.sessions.require(self._visit.name, session, self._visit.owner, task)
        return task

    def _outgoing(self, message: Message) -> Outgoing:
        headers, session = headers_up(self._visit.head), self._visit.head.session
        if message.method == "initialize":
            # It opens a session and is in none: the id that it carries may be another's.
            headers = [pair for pair in headers if pair[0] != "mcp-session-id"]
            session = None
        return Outgoing(
            method="POST",
            headers=headers,
            message=message,
            session=session,
            owner=self._visit.owner,
            quiet=message.method == "subscriptions/listen",
        )

    async def _forward(self, message: Message) -> None:
        answer = await self._upstream.send(self._outgoing(message))
        session = self._visit.head.session
        if session is not None and answer.status == GONE:
            self._house.sessions.close(self._visit.name, session)
        limit = self._upstream.options.max_answer_bytes
        clean = self._house.watching(self._visit.name)
        clean_headers(answer.headers, clean)
        try:
            if session is None:
                await pass_on(answer, self._reply, limit, clean)
            else:
                pending, name = self._house.pending, self._visit.name
                await pending.pass_on(answer, self._reply, name, session, limit, clean=clean)
        finally:
            await answer.close()

    async def _initialize(self, message: Message, task: str | None) -> None:
        sessions = self._house.sessions
        sessions.require_room(self._visit.owner)
        answer = await self._upstream.send(self._outgoing(message))
        try:
            opened = dict(answer.headers).get(b"mcp-session-id")
            if opened is not None and answer.status < 400:  # noqa: PLR2004 - HTTP's classes
                session = Session(
                    self._visit.name, opened.decode("latin-1"), self._visit.owner, task
                )
                sessions.open(session)
            clean = self._house.watching(self._visit.name)
            clean_headers(answer.headers, clean)
            await pass_on(answer, self._reply, self._upstream.options.max_answer_bytes, clean)
        finally:
            await answer.close()

    async def _list(self, message: Message) -> None:
        answer = await self._upstream.send(self._outgoing(message))
        clean = self._house.watching(self._visit.name)
        clean_headers(answer.headers, clean)
        try:
            limit = self._upstream.options.max_answer_bytes
            held = await hold(answer, self._reply, limit, Seen(), clean)
        finally:
            await answer.close()
        if held is None:
            raise UpstreamError("the upstream ended its answer without a response")
        if (cleaned := clean(held.data)) is not held.data:
            held = held.replaced(cleaned)
        if message.method == handles.LIST:
            name, owner = self._visit.name, self._visit.owner
            held = held.replaced(self._house.handles.cut(name, owner, held.data))
        else:
            held = await listing.filtered(held, self._house, self._visit, message)
        await held.release(self._reply)

    async def _govern(self, message: Message) -> None:
        house, reply = self._house, self._reply
        call = call_of(self._visit.head, message, self._visit.name, house.call_id())
        self._require_params_agree(message, call.target, call.arguments)
        try:
            self._upstream.options.inject.require_free(message)
        except InputError as error:
            raise ProtocolError(str(error), code=INVALID_PARAMS, request_id=message.id) from error
        try:
            await self._require_clean(message, Context(call=call.id))
        except InputError as error:
            await reply.message(200, refusal(message, error))
            return
        claim = self._visit.claim
        if claim.task_token is None and self._visit.subject.agent.gateway_templates:
            claim = replace(claim, task_token=house.authority.tasks.current(self._visit.owner))
        try:
            flight = Flight(
                self._outgoing(message),
                self._upstream,
                reply,
                house.pending,
                house.guard,
                in_flight=house.in_flight,
            )
        except InputError as error:
            raise ProtocolError(str(error), request_id=message.id) from error
        self._flight = flight
        instead: bytes | None = None
        try:
            # A call that cannot be understood is refused in its task's chain: the story says it.
            asked = self._upstream if isinstance(self._upstream, Understanding) else None
            outcome = await house.perform(
                claim,
                call,
                flight.act,
                house.authority,
                understand=asked.understand if asked is not None else None,
            )
            if flight.held is not None:
                house.handles.note(self._visit.name, self._visit.owner, flight.held.data)
                await flight.held.release(reply)
            elif outcome.ending is Ending.UNKNOWN:
                raise UpstreamError(
                    f"{outcome.detail}; whether the call was carried out is not known"
                )
        except UnidentifiedError:
            raise
        except RemitError as error:
            # It may tell what an upstream or a target said.
            instead = house.watching(self._visit.name)(refusal(message, error))
            if not reply.ended:
                await reply.message(200, instead)
        finally:
            flight.land(instead)

    async def _require_clean(self, message: Message, context: Context) -> None:
        """Refuse a message that holds a credential of ours, in its arguments or anywhere."""
        house = self._house
        # What it parses to, not its bytes: an escape hides nothing.
        await require_none(
            [message.params, message.method],
            "message",
            house.guard,
            house.authority,
            context,
        )

    def _require_params_agree(self, message: Message, target: str, arguments: object) -> None:
        """Hold ``Mcp-Param-*`` headers that the tool declares against the arguments."""
        schema = self._house.schemas.get(target)
        if schema is None or not message.modern or not isinstance(arguments, dict):
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in self._visit.head.headers}
        wrong = validate_mcp_param_headers(schema, arguments, headers)
        if wrong is not None:
            raise ProtocolError(
                wrong.message, code=wrong.code, request_id=message.id, data=wrong.data
            )


async def answer_failure(reply: Reply, message: Message | None, error: RemitError) -> None:
    """Tell the client of a failure that was not told yet, in the shape that its era expects."""
    if reply.ended:
        return
    status = error.status
    if isinstance(error, UpstreamError | EvidenceError | MandateError) and message is not None:
        # The exchange worked, what it was about did not: clients read the JSON-RPC error.
        status = 200 if message.kind == "request" else error.status
    await reply.message(status, failure(message.id if message else None, error))
