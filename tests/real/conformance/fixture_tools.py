"""The fixture's tools, but for those that ask for input in rounds (``fixture_inputs``)."""

from __future__ import annotations

import itertools
import json
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    SamplingMessage,
    TextContent,
    TextResourceContents,
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


def text_block(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def image_block() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def embedded_block(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return EmbeddedResource(type="resource", resource=contents)


def add_content_tools(server: MCPServer) -> None:
    """Tools that only answer."""

    @server.tool(description="Tests simple text content response")
    async def test_simple_text() -> str:
        return "This is a simple text response for testing."

    @server.tool(description="Tests image content response", structured_output=False)
    async def test_image_content() -> list[ContentBlock]:
        return [image_block()]

    @server.tool(description="Tests audio content response", structured_output=False)
    async def test_audio_content() -> list[ContentBlock]:
        return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]

    @server.tool(description="Tests embedded resource content response", structured_output=False)
    async def test_embedded_resource() -> list[ContentBlock]:
        text = "This is an embedded resource content."
        return [embedded_block("test://embedded-resource", "text/plain", text)]

    @server.tool(
        description="Tests response with multiple content types (text, image, resource)",
        structured_output=False,
    )
    async def test_multiple_content_types() -> list[ContentBlock]:
        text = json.dumps({"test": "data", "value": 123})
        mixed = embedded_block("test://mixed-content-resource", "application/json", text)
        return [text_block("Multiple content types test:"), image_block(), mixed]

    @server.tool(description="Tests error response handling")
    async def test_error_handling() -> str:
        raise ToolError("This tool intentionally returns an error for testing")


def add_streaming_tools(server: MCPServer) -> None:
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
        await anyio.sleep(10 * PAUSE_SECONDS)  # lets the priming event go, on a busy machine too
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


def add_asking_tools(server: MCPServer) -> None:
    """Tools of the older era, which ask the client in the middle of a call."""

    @server.tool(description="Tests server-initiated sampling (LLM completion request)")
    async def test_sampling(prompt: str, ctx: Context) -> str:
        message = SamplingMessage(role="user", content=text_block(prompt))
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


def add_schema_tools(server: MCPServer) -> None:
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


def schema_tool() -> Tool:
    description = "Tests JSON Schema 2020-12 keyword preservation in tools/list (inputSchema installed below)."
    tool = Tool.from_function(json_schema_2020_12_tool, description=description)
    return tool.model_copy(update={"parameters": KEYWORDS})
