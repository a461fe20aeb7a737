"""The MCP server that the official conformance suite expects, for both protocol eras.

Written with the `mcp` SDK from the contract in the external case
``mcp_conformance/fixture.json`` and from the suite's own scenario descriptions. Run it as
``python fixture_server.py --port N``; it serves streamable HTTP at ``/mcp`` on loopback.
"""

from __future__ import annotations

import argparse
import base64
import json
from typing import Any

import uvicorn
from fixture_inputs import add_input_tools
from fixture_tools import (
    PNG,
    add_asking_tools,
    add_content_tools,
    add_schema_tools,
    add_streaming_tools,
    embedded_block,
    image_block,
    schema_tool,
)
from mcp.server.mcpserver import MCPServer, UserMessage
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    Completion,
    EmptyResult,
    JSONRPCMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)


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
            UserMessage(embedded_block(resourceUri, "text/plain", text)),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt(description="A prompt that includes image content")
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(image_block()), UserMessage("Please analyze the image above.")]

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
        "mcp-conformance-test-server", version="0.1.0", tools=[schema_tool()], log_level="ERROR"
    )
    for add in (
        add_content_tools,
        add_streaming_tools,
        add_asking_tools,
        add_schema_tools,
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
