"""The bridge between a client that starts a process and the gateway, in both eras."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from remit.gateway.bridge import bridge
from remit.gateway.options import UpstreamOptions

BARE = (sys.executable, "-S", "-E", str(Path(__file__).with_name("bare_server.py")))
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Talk:
    """A client at the bridge's standard input and output."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def write(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        self.said.put_nowait(json.loads(line))

    def send(self, method: str | None = None, **more: Any) -> None:
        message = {"jsonrpc": "2.0"} | ({"method": method} if method else {}) | more
        self.reader.feed_data(json.dumps(message).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return await self.said.get()


@contextlib.asynccontextmanager
async def bridged(made: Any, token: str = "token-a") -> AsyncIterator[Talk]:
    talk = Talk()

    async def identity() -> str:
        return token

    running = asyncio.create_task(
        bridge(
            f"{made.url}/mcp/up",
            token=identity,
            task_token="a:task_1",
            reader=talk.reader,
            write=talk.write,
        )
    )
    try:
        yield talk
    finally:
        talk.reader.feed_eof()
        async with asyncio.timeout(5):
            await running


@pytest.fixture
async def made(stand: Any) -> AsyncIterator[Any]:
    async with stand(UpstreamOptions(name="up", command=BARE)) as made:
        yield made


async def test_an_older_client_works_through_the_bridge_and_its_session_is_ended(made: Any):
    async with bridged(made) as talk:
        # All at once, as a hasty client does: the handshake is carried in its order.
        talk.send("initialize", id=0, params={"protocolVersion": "2025-11-25"})
        talk.send("notifications/initialized")
        talk.send("tools/call", id=1, params={"name": "echo", "arguments": {"text": "a\nb"}})
        assert (await talk.hear())["id"] == 0
        assert (await talk.hear())["result"]["content"][0]["text"] == "a\nb"
        talk.send("tools/call", id=2, params={"name": "ask"})
        question = await talk.hear()
        assert question["method"] == "elicitation/create"
        talk.send(id=question["id"], result={"action": "accept"})
        assert "accept" in (await talk.hear())["result"]["content"][0]["text"]
        assert len(made.gateway.house.sessions) == 1
    assert len(made.gateway.house.sessions) == 0


async def test_a_newer_client_works_through_the_bridge(made: Any):
    made.gateway.house.schemas["up/echo"] = {
        "type": "object",
        "properties": {"text": {"type": "string", "x-mcp-header": "Text"}},
    }
    async with bridged(made) as talk:
        talk.send("server/discover", id="d", params={"_meta": META})
        assert (await talk.hear())["result"]["supportedVersions"] == ["2026-07-28"]
        arguments = {"text": "grüß"}
        talk.send(
            "tools/call", id=1, params={"name": "echo", "arguments": arguments, "_meta": META}
        )
        # The schema declares a header, but the client's bridge has not listed it yet.
        assert (await talk.hear())["error"]["code"] == -32020
        made.gateway.house.schemas.clear()
        meta = META | {"progressToken": 7}
        talk.send(
            "tools/call", id=2, params={"name": "steps", "arguments": {"count": 2}, "_meta": meta}
        )
        heard = [await talk.hear() for _ in range(3)]
        assert [h.get("params", {}).get("progressToken") for h in heard] == [7, 7, None]
        assert heard[2]["id"] == 2


async def test_a_newer_client_cancels_through_the_bridge(made: Any, tmp_path: Path, until: Any):
    out = tmp_path / "out"
    async with bridged(made) as talk:
        params = {"name": "wait_for", "arguments": {"path": str(out)}, "_meta": META}
        talk.send("tools/call", id=1, params=params)
        shared = made.gateway.upstreams["up"]._shared
        await until(lambda: any(not pipe.idle for pipe in shared.values()))
        talk.send("notifications/cancelled", params={"requestId": 1})
        await until(lambda: out.exists() and out.read_text() == "cancelled")


async def test_a_refusal_reaches_the_client_with_the_id_of_its_request(made: Any):
    async with bridged(made, token="forged") as talk:
        talk.send("initialize", id=4, params={})
        heard = await talk.hear()
        assert (heard["id"], heard["error"]["code"]) == (4, 401)
        assert "forged" not in json.dumps(heard)
        talk.reader.feed_data(b"no json\n")
        assert (await talk.hear())["error"]["code"] == -32700


async def test_a_gateway_that_is_not_there_is_an_answer_too():
    talk = Talk()

    async def identity() -> str:
        return "token-a"

    talk.send("initialize", id=1, params={})
    talk.reader.feed_eof()
    await bridge("http://127.0.0.1:9/mcp/up", token=identity, reader=talk.reader, write=talk.write)
    assert "could not be asked" in (await talk.hear())["error"]["message"]


def test_an_input_that_is_a_file_is_read_to_its_end(tmp_path: Path):
    script = (
        "import asyncio\n"
        "from remit.gateway.bridge import _standard_input\n"
        "async def main():\n"
        "    reader = await _standard_input()\n"
        "    while line := await reader.readline():\n"
        "        print(line.decode().strip())\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "lines").write_text("one\ntwo\n")
    for source, said in ((tmp_path / "lines", "one\ntwo\n"), (Path("/dev/null"), "")):
        with source.open("rb") as given:
            run = subprocess.run(
                [sys.executable, "-c", script],
                stdin=given,
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            )
        assert run.stdout == said
