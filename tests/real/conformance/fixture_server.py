"""The MCP server that the official conformance suite expects, for both protocol eras.

Written with the `mcp` SDK from the contract in the external case
``mcp_conformance/fixture.json`` and from the suite's own scenario descriptions. Run it as
``python fixture_server.py --port N``; it serves streamable HTTP at ``/mcp`` on loopback.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
from typing import Annotated, Any

import anyio
import uvicorn
from fixture_inputs import add_input_tools
from mcp.server.mcpserver import Context, MCPServer, UserMessage
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.tools import Tool
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    Completion,
    ContentBlock,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    JSONRPCMessage,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
PAUSE_SECONDS = 0.05
STEP = {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}
KEYWORDS = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", **STEP}},
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
"""The input schema of ``json_schema_2020_12_tool``: every keyword has to survive the way through."""


class Replay(EventStore):
    """Keeps every event in memory, so that a client which lost its stream can read on."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep one event; its id is its position."""
        self._events.append((stream_id, message))
        return str(len(self._events) - 1)

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        """Send what followed ``last_event_id`` on its stream."""
        if not last_event_id.isdigit() or int(last_event_id) >= len(self._events):
            return None
        seen = int(last_event_id)
        stream = self._events[seen][0]
        for position, (of_stream, message) in enumerate(self._events[seen + 1 :], seen + 1):
            if of_stream == stream and message is not None:
                await send_callback(EventMessage(message, str(position)))
        return stream


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def _embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return EmbeddedResource(type="resource", resource=contents)


def _add_content_tools(server: MCPServer) -> None:
    """Tools that only answer."""

    @server.tool(description="Tests simple text content response")
    async def test_simple_text() -> str:
        return "This is a simple text response for testing."

    @server.tool(description="Tests image content response", structured_output=False)
    async def test_image_content() -> list[ContentBlock]:
        return [_image()]

    @server.tool(description="Tests audio content response", structured_output=False)
    async def test_audio_content() -> list[ContentBlock]:
        return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]

    @server.tool(description="Tests embedded resource content response", structured_output=False)
    async def test_embedded_resource() -> list[ContentBlock]:
        text = "This is an embedded resource content."
        return [_embedded("test://embedded-resource", "text/plain", text)]

    @server.tool(
        description="Tests response with multiple content types (text, image, resource)",
        structured_output=False,
    )
    async def test_multiple_content_types() -> list[ContentBlock]:
        text = json.dumps({"test": "data", "value": 123})
        mixed = _embedded("test://mixed-content-resource", "application/json", text)
        return [_text("Multiple content types test:"), _image(), mixed]

    @server.tool(description="Tests error response handling")
    async def test_error_handling() -> str:
        raise ToolError("This tool intentionally returns an error for testing")


def _add_streaming_tools(server: MCPServer) -> None:
    """Tools that send something before they answer."""

    @server.tool(description="Tests tool that emits log messages during execution")
    async def test_tool_with_logging(ctx: Context) -> str:
        await ctx.info("Tool execution started")
        await anyio.sleep(PAUSE_SECONDS)
        await ctx.info("Tool processing data")
        await anyio.sleep(PAUSE_SECONDS)
        await ctx.info("Tool execution completed")
        return "Three log messages were sent."

    @server.tool(description="Tests tool that reports progress notifications")
    async def test_tool_with_progress(ctx: Context) -> str:
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
            await anyio.sleep(PAUSE_SECONDS)
        return "Progress was reported three times."

    @server.tool(description="Tests SSE polling by closing stream mid-call (SEP-1699)")
    async def test_reconnection(ctx: Context) -> str:
        await ctx.close_sse_stream()
        await anyio.sleep(2 * PAUSE_SECONDS)
        return "The stream was closed in the middle of this call."

    announced = itertools.count()

    @server.tool(
        description="Mutates the tool list and announces it to subscriptions/listen streams (SEP-2575)"
    )
    async def test_trigger_tool_change(ctx: Context) -> str:
        if next(announced) % 2 == 0:
            server.add_tool(_passing, name="test_passing_tool", description="Comes and goes")
        else:
            server.remove_tool("test_passing_tool")
        await ctx.notify_tools_changed()
        return "The tool list changed."

    shown = itertools.count()

    @server.tool(
        description="Mutates the prompt list and announces it to subscriptions/listen streams (SEP-2575)"
    )
    async def test_trigger_prompt_change(ctx: Context) -> str:
        if next(shown) % 2 == 0:
            server.add_prompt(
                Prompt.from_function(_passing, "test_passing_prompt", description="Comes and goes")
            )
        else:
            server.remove_prompt("test_passing_prompt")
        await ctx.notify_prompts_changed()
        return "The prompt list changed."


def _passing() -> str:
    return "here for a while"


def _add_asking_tools(server: MCPServer) -> None:
    """Tools of the older era, which ask the client in the middle of a call."""

    @server.tool(description="Tests server-initiated sampling (LLM completion request)")
    async def test_sampling(prompt: str, ctx: Context) -> str:
        message = SamplingMessage(role="user", content=_text(prompt))
        answer = await ctx.session.create_message(
            [message], max_tokens=100, related_request_id=ctx.request_id
        )
        said = answer.content.text if isinstance(answer.content, TextContent) else ""
        return f"LLM response: {said}"

    async def ask(ctx: Context, message: str, properties: dict[str, Any]) -> str:
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
        return f"action={answer.action}, content={json.dumps(answer.content)}"

    @server.tool(description="Tests server-initiated elicitation (user input request)")
    async def test_elicitation(message: str, ctx: Context) -> str:
        username = {"type": "string", "description": "User's response"}
        email = {"type": "string", "description": "User's email address"}
        said = await ask(ctx, message, {"username": username, "email": email})
        return f"User response: {said}"

    @server.tool(
        description="Tests elicitation with default values for all primitive types (SEP-1034)"
    )
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        properties = {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {
                "type": "string",
                "enum": ["active", "inactive", "pending"],
                "default": "active",
            },
            "verified": {"type": "boolean", "default": True},
        }
        return f"Elicitation completed: {await ask(ctx, 'Please review', properties)}"

    @server.tool(description="Tests elicitation with enum schema variations per SEP-1330")
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        plain = ["option1", "option2", "option3"]
        words = ("First", "Second", "Third")
        options = [{"const": f"value{n}", "title": f"{w} Option"} for n, w in enumerate(words, 1)]
        choices = [{"const": f"value{n}", "title": f"{w} Choice"} for n, w in enumerate(words, 1)]
        properties = {
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": options},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": choices}},
        }
        return f"Elicitation completed: {await ask(ctx, 'Please choose', properties)}"


def _add_schema_tools(server: MCPServer) -> None:
    """Tools whose schema, headers or required capability is what is tested."""

    @server.tool(
        description=(
            "Tests SEP-2243 Mcp-Param-* server-side validation.\n\n    Arms the "
            "http-custom-header-server-validation conformance scenario, which\n    skips when no tool "
            "with an `x-mcp-header` annotation is found.\n    "
        )
    )
    async def test_x_mcp_header(
        region: Annotated[
            str,
            Field(
                description="Mirrored into the Mcp-Param-Region header",
                json_schema_extra={"x-mcp-header": "Region"},
            ),
        ] = "<none>",
    ) -> str:
        return f"region={region}"

    @server.tool(
        description=(
            "Tests that a handler-raised MISSING_REQUIRED_CLIENT_CAPABILITY surfaces as a top-level "
            "JSON-RPC error.\n\n    Requires the client to declare the ``sampling`` capability."
        )
    )
    async def test_missing_capability(ctx: Context) -> str:
        declared = ctx.client_capabilities
        if declared is None or declared.sampling is None:
            raise MCPError(
                code=MISSING_REQUIRED_CLIENT_CAPABILITY,
                message="this tool needs the client's sampling capability",
                data={"requiredCapabilities": {"sampling": {}}},
            )
        return "The client declared sampling."


async def json_schema_2020_12_tool() -> str:
    """Answer with its own name; only its input schema matters."""
    return "json_schema_2020_12_tool"


def _schema_tool() -> Tool:
    description = "Tests JSON Schema 2020-12 keyword preservation in tools/list (inputSchema installed below)."
    tool = Tool.from_function(json_schema_2020_12_tool, description=description)
    return tool.model_copy(update={"parameters": KEYWORDS})


def _add_resources(server: MCPServer) -> None:
    @server.resource(
        "test://static-text",
        name="static_text_resource",
        description="A static text resource for testing",
    )
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource(
        "test://static-binary",
        name="static_binary_resource",
        description="A static binary resource (image) for testing",
        mime_type="image/png",
    )
    def static_binary() -> bytes:
        return base64.b64decode(PNG)

    @server.resource(
        "test://watched-resource",
        name="watched_resource",
        description="A resource that can be subscribed to for updates",
    )
    def watched() -> str:
        return "Somebody may be watching this."

    @server.resource(
        "test://template/{id}/data",
        name="template_resource",
        description="A resource template with parameter substitution",
        mime_type="application/json",
    )
    def template(id: str) -> str:  # noqa: A002 - the template names it
        if not id:
            raise ResourceNotFoundError("the template needs an id")
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _add_prompts(server: MCPServer) -> None:
    @server.prompt(description="A simple prompt without arguments")
    def test_simple_prompt() -> list[UserMessage]:
        return [UserMessage("This is a simple prompt for testing.")]

    @server.prompt(description="A prompt with required arguments")
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        return [UserMessage(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]

    @server.prompt(description="A prompt that includes an embedded resource")
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suite's name
        text = "Embedded resource content for testing."
        return [
            UserMessage(_embedded(resourceUri, "text/plain", text)),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt(description="A prompt that includes image content")
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(_image()), UserMessage("Please analyze the image above.")]

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        words = [w for w in ("paris", "park", "party") if w.startswith(argument.value)]
        return Completion(values=words, total=len(words), has_more=False)


def _add_older_era(server: MCPServer) -> None:
    """Methods that 2025-11-25 has and 2026-07-28 no longer knows."""
    watched: set[str] = set()

    async def subscribe(_: Any, params: SubscribeRequestParams) -> EmptyResult:
        watched.add(str(params.uri))
        return EmptyResult()

    async def unsubscribe(_: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        watched.discard(str(params.uri))
        return EmptyResult()

    async def set_level(_: Any, params: SetLevelRequestParams) -> EmptyResult:
        if not params.level:
            raise MCPError(INVALID_PARAMS, "a level is needed")
        return EmptyResult()

    low = server._lowlevel_server
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)


def build() -> MCPServer:
    """Return the whole fixture."""
    server = MCPServer(
        "mcp-conformance-test-server", version="0.1.0", tools=[_schema_tool()], log_level="ERROR"
    )
    for add in (
        _add_content_tools,
        _add_streaming_tools,
        _add_asking_tools,
        _add_schema_tools,
        _add_resources,
        _add_prompts,
        _add_older_era,
        add_input_tools,
    ):
        add(server)
    return server


def main() -> None:
    """Serve until killed.

    On h11, which trims the white space around a header's value as RFC 9110 section 5.5 asks;
    httptools leaves what trails, and one check of the suite looks at it.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    app = build().streamable_http_app(event_store=Replay(), retry_interval=100)
    port = parser.parse_args().port
    uvicorn.run(app, host="127.0.0.1", port=port, http="h11", log_level="error")


if __name__ == "__main__":
    main()
