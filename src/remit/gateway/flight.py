"""One governed call on its way through the spine: the act, and what it holds back meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from remit.gateway.forward import UnreachableError
from remit.gateway.governed import Stopwatch, lost, outcome_of
from remit.gateway.in_flight import InFlight
from remit.gateway.leaks import LeakGuard, clean_headers, merged
from remit.gateway.messages import RequestId
from remit.gateway.relay import Held, Pending, Seen, Waiting, hold
from remit.gateway.reply import Reply
from remit.gateway.upstream import Answer, Outgoing, Upstream
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import InputError, UpstreamError
from remit.model.lease import Credential
from remit.model.outcome import Leak, Outcome


class Flight:
    """Makes the exchange with the upstream.

    ``held`` is the final response, not told before the outcome is durable.

    Raises:
        InputError: the session has a call with this id in flight already.
    """

    def __init__(
        self,
        request: Outgoing,
        upstream: Upstream,
        reply: Reply,
        pending: Pending,
        guard: LeakGuard,
        *,
        in_flight: InFlight,
    ) -> None:
        self.held: Held | None = None
        self._request = request
        self._upstream = upstream
        self._reply = reply
        self._pending = pending
        self._guard = guard
        self._in_flight = in_flight
        self._leaks: list[Leak] = []
        self._seen = Seen()
        self._gone = asyncio.Event()
        self._waiting: Waiting | None = None
        if request.session is not None:
            self._waiting = pending.expect(upstream.options.name, request.session, _id(request))

    def leave(self) -> bool:
        """Say that the client is gone; return whether it may fetch the answer elsewhere.

        Disconnecting is no cancellation in the 2025 era where the stream can be resumed; in the
        2026 era, and where nothing can be resumed, it is.
        """
        if self._seen.resumable and self._request.session is not None:
            self._gone.set()
            return True
        return False

    async def act(self, call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        """Make the call (the spine's ``Act``).

        Raises:
            UpstreamError: the request was certainly not delivered.
        """
        # No await may come before the exchange is noted as a use of the credential: the lease is
        # in use at this moment, and what ends it later finds the exchange.
        options = self._upstream.options
        if decision.obligations:
            # One that is not known is a denial (DESIGN.md, decisions), and none is known yet.
            raise UpstreamError("policy asks for an obligation that the gateway cannot meet")
        request = self._with(credential)
        watch = Stopwatch()
        try:
            async with self._in_flight.limited(credential, options.call_seconds):
                self.held = await self._exchange(request)
        except (UpstreamError, TimeoutError) as error:
            outcome = lost(error, call, options, watch.seconds)
            detail, leaks = self._guard.clean_text(outcome.detail or "")
            self._leaks += leaks
            return replace(outcome, detail=detail, leaks=merged(self._leaks))
        outcome = outcome_of(self.held, call, options, watch.seconds)
        return replace(outcome, leaks=merged(self._leaks))

    def _with(self, credential: Credential | None) -> Outgoing:
        """Return the request with its credential in it.

        Raises:
            UnreachableError: the credential does not fit, so nothing is sent.
        """
        request, options = self._request, self._upstream.options
        if credential is None:
            return request
        try:
            message, headers = options.inject.put(
                request.message,
                request.headers,
                credential,
                method=request.method,
                url=options.url or "",
            )
        except UpstreamError as error:
            raise UnreachableError(str(error)) from error
        return replace(request, message=message, headers=headers, credential=credential)

    async def _exchange(self, request: Outgoing) -> Held:
        answer = await self._upstream.send(request)
        clean_headers(answer.headers, self._clean)
        try:
            held = await self._until_final(answer)
        finally:
            await answer.close()
        held = held if held is not None else await self._elsewhere(answer)
        cleaned = self._clean(held.data)
        return held if cleaned is held.data else held.replaced(cleaned)

    def _clean(self, data: bytes) -> bytes:
        cleaned, leaks = self._guard.clean(data)
        self._leaks += leaks
        return cleaned

    async def _until_final(self, answer: Answer) -> Held | None:
        """Hold the answer; give up its stream, not the call, when a client that may resume left."""
        limit = self._upstream.options.max_answer_bytes
        holding = asyncio.ensure_future(hold(answer, self._reply, limit, self._seen, self._clean))
        leaving = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({holding, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return await holding if holding.done() else None
        finally:
            leaving.cancel()
            if not holding.done():
                holding.cancel()
                await asyncio.wait({holding})

    async def _elsewhere(self, answer: Answer) -> Held:
        """Wait for the final response on the stream that the client resumes."""
        if self._waiting is None:
            raise UpstreamError("the upstream ended its answer without a response")
        data = await self._waiting.found
        return Held(answer.status, answer.headers, data, b"", stream=True)

    def land(self, instead: bytes | None = None) -> None:
        """Let a response that is held back on another stream go: how the call ended is durable.

        Where it could not be made durable, ``instead`` goes in its place.
        """
        if instead is None and self._leaks and self.held is not None:
            instead = self.held.data
        request = self._request
        if self._waiting is not None and request.session is not None:
            self._pending.settle(
                self._upstream.options.name, request.session, _id(request), instead
            )


def _id(request: Outgoing) -> RequestId:
    message = request.message
    if message is None or message.id is None:
        raise InputError("a governed call is a request")
    return message.id
