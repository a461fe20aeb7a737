"""The fixture's multi-round-trip tools (2026-07-28): each asks the client for input, then goes on.

One table says, tool by tool, what is asked and what the answer becomes. The SDK seals
``requestState`` and refuses a tampered echo; nothing here has to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mcp.server.mcpserver import Context, MCPServer, UserMessage
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)


def _ask(message: str, field: str, kind: str = "string") -> ElicitRequest:
    """Ask the person for one field."""
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(prompt: str, most_tokens: int) -> CreateMessageRequest:
    """Ask the client's model."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=[message], max_tokens=most_tokens)
    )


def _need(requests: Mapping[str, InputRequest], state: Any = None) -> InputRequiredResult:
    """Return the round that asks, with the server's state where there is one."""
    return InputRequiredResult(
        input_requests=dict(requests), request_state=None if state is None else json.dumps(state)
    )


def _form(ctx: Context, key: str, field: str) -> Any:
    """Return what the person filled in, or None where it is missing or not accepted."""
    answer = (ctx.input_responses or {}).get(key)
    if not isinstance(answer, ElicitResult) or answer.action != "accept" or not answer.content:
        return None
    return answer.content.get(field)


def _said(ctx: Context, key: str) -> str | None:
    """Return what the client's model said, or None."""
    answer = (ctx.input_responses or {}).get(key)
    if not isinstance(answer, CreateMessageResult) or not isinstance(answer.content, TextContent):
        return None
    return answer.content.text


def _roots(ctx: Context, key: str) -> list[str] | None:
    """Return the client's roots, or None."""
    answer = (ctx.input_responses or {}).get(key)
    return [str(r.uri) for r in answer.roots] if isinstance(answer, ListRootsResult) else None


def _state(ctx: Context) -> Any:
    """Return the state of the round before, or None in the first."""
    return json.loads(ctx.request_state) if ctx.request_state else None


NAME = _ask("What is your name?", "name")


def add_input_tools(server: MCPServer) -> None:  # noqa: C901 - a list of small, flat handlers
    """Register the fixture's eight ``test_input_required_result_*`` tools and its prompt."""

    @server.tool(description="Tests InputRequiredResult with a single elicitation request")
    async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
        name = _form(ctx, "user_name", "name")
        return _need({"user_name": NAME}) if name is None else f"Hello, {name}!"

    @server.tool(description="Tests InputRequiredResult with a single sampling request")
    async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
        said = _said(ctx, "capital_question")
        asked = {"capital_question": _sample("What is the capital of France?", 100)}
        return _need(asked) if said is None else said

    @server.tool(description="Tests InputRequiredResult with a single roots/list request")
    async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
        roots = _roots(ctx, "client_roots")
        if roots is None:
            return _need({"client_roots": ListRootsRequest()})
        return f"Roots: {', '.join(roots)}"

    @server.tool(description="Tests requestState round-tripping in the InputRequiredResult flow")
    async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
        okay = _form(ctx, "confirm", "ok")
        if okay is None or _state(ctx) != {"step": "confirm"}:
            asked = {"confirm": _ask("Please confirm", "ok", "boolean")}
            return _need(asked, {"step": "confirm"})
        return f"state-ok: confirmed={okay}"

    @server.tool(
        description="Tests InputRequiredResult carrying elicitation, sampling and roots requests together"
    )
    async def test_input_required_result_multiple_inputs(
        ctx: Context,
    ) -> str | InputRequiredResult:
        name = _form(ctx, "user_name", "name")
        greeting = _said(ctx, "greeting")
        roots = _roots(ctx, "client_roots")
        if name is None or greeting is None or roots is None:
            asked: dict[str, InputRequest] = {
                "user_name": NAME,
                "greeting": _sample("Generate a greeting", 50),
                "client_roots": ListRootsRequest(),
            }
            return _need(asked, {"step": "all"})
        return f"{greeting} {name}, with {len(roots)} roots"

    @server.tool(
        description="Tests a three-round InputRequiredResult flow with evolving requestState"
    )
    async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
        state = _state(ctx) or {"round": 0}
        if state["round"] == 1 and (name := _form(ctx, "step1", "name")) is not None:
            asked = {"step2": _ask("Step 2: What is your favorite color?", "color")}
            return _need(asked, {"round": 2, "name": name})
        if state["round"] == 2 and (color := _form(ctx, "step2", "color")) is not None:
            return f"{state['name']} likes {color}"
        return _need({"step1": _ask("Step 1: What is your name?", "name")}, {"round": 1})

    @server.tool(
        description=(
            "Tests that the server rejects a tampered requestState echo.\n\n    The handler stays "
            "plaintext; tamper rejection happens in the SDK's request-state boundary.\n    "
        )
    )
    async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
        okay = _form(ctx, "confirm", "ok")
        if okay is None:
            return _need({"confirm": _ask("Please confirm", "ok", "boolean")}, {"step": "sealed"})
        return "the state came back whole"

    @server.tool(
        description="Tests that inputRequests only include methods the client declared support for",
        structured_output=False,
    )
    async def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
        declared = ctx.client_capabilities
        offered: dict[str, InputRequest] = {}
        if declared and declared.elicitation is not None:
            offered["user_name"] = NAME
        if declared and declared.sampling is not None:
            offered["greeting"] = _sample("Generate a greeting", 50)
        if declared and declared.roots is not None:
            offered["client_roots"] = ListRootsRequest()
        if not offered or ctx.input_responses:
            return "nothing left to ask"
        return _need(offered)

    @server.prompt(
        description="Tests InputRequiredResult from prompts/get (SEP-2322 non-tool request)"
    )
    async def test_input_required_result_prompt(
        ctx: Context,
    ) -> list[UserMessage] | InputRequiredResult:
        context = _form(ctx, "user_context", "context")
        if context is None:
            return _need({"user_context": _ask("What context should the prompt use?", "context")})
        return [UserMessage(f"Use this context: {context}")]
