"""The Workload API as a client meets it on the wire; the peer is this test's own process."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from joserfc import jws
from workload_house import DOMAIN, House, agent_id, workload_house

from remit.identity.workload_api import workload_pb2 as pb
from remit.identity.workload_api.client import WorkloadClient
from remit.identity.workload_api.proc import process
from remit.identity.workload_api.server import listen
from remit.identity.workload_api.service import KEY_HEADER, Limits
from remit.model.errors import ConfigError, InputError, UnavailableError, UnidentifiedError
from remit.proof.dpop import ProofKey

HEADER = {"workload.spiffe.io": "true"}
ME = f"unix:uid:{os.getuid()}"
SECONDS = 10.0
# Streams look again only when told to: what a test sees is a push, not a poll.
TOLD_ONLY = Limits(recheck_seconds=600)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with workload_house(tmp_path, TOLD_ONLY) as running:
        yield running


@asynccontextmanager
async def channel(house: House) -> AsyncIterator[Channel]:
    opened = Channel(path=str(house.path))
    try:
        yield opened
    finally:
        opened.close()


def unary(opened: Channel, name: str, request: Any, reply: Any) -> Any:
    return UnaryUnaryMethod[Any, Any](opened, f"/SpiffeWorkloadAPI/{name}", request, reply)


def streaming(opened: Channel, name: str) -> Any:
    kind = name.removeprefix("Fetch")
    return UnaryStreamMethod[Any, Any](
        opened,
        f"/SpiffeWorkloadAPI/{name}",
        getattr(pb, f"{kind}Request"),
        getattr(pb, f"{kind}Response"),
    )


async def jwt(opened: Channel, metadata: Any = HEADER, **fields: Any) -> Any:
    method = unary(opened, "FetchJWTSVID", pb.JWTSVIDRequest, pb.JWTSVIDResponse)
    return await method(pb.JWTSVIDRequest(**fields), metadata=metadata, timeout=SECONDS)


async def first_of(opened: Channel, name: str, metadata: Any = HEADER) -> Any:
    async with streaming(opened, name).open(metadata=metadata) as stream:
        await stream.send_message(stream._send_type(), end=True)
        return await stream.recv_message()


async def raw(opened: Channel, name: str, body: bytes) -> dict[str, str]:
    """Send a call's bytes as they are, and return the headers of the answer."""
    connection = await opened.__connect__()
    stream = connection.connection.create_stream()
    await stream.send_request(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/SpiffeWorkloadAPI/{name}"),
            (":authority", "x"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *HEADER.items(),
        ],
        _processor=connection.processor,
    )
    await stream.send_data(body, end_stream=True)
    async with asyncio.timeout(SECONDS):
        return dict(await stream.recv_headers())


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never held")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"workload.spiffe.io": "false"},
        {"workload.spiffe.io": "TRUE"},
        [("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")],
    ],
)
async def test_a_call_without_the_security_header_is_an_invalid_argument(
    house: House, metadata: Any
):
    house.roll.admit("a", ME)
    async with channel(house) as opened:
        with pytest.raises(GRPCError) as refused:
            await jwt(opened, metadata, audience=["x"])
        assert refused.value.status is Status.INVALID_ARGUMENT
        for name in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"):
            with pytest.raises(GRPCError) as refused:
                await first_of(opened, name, metadata)
            assert refused.value.status is Status.INVALID_ARGUMENT


async def test_an_unknown_workload_is_denied_whatever_it_asks(house: House):
    house.roll.admit("else", f"unix:uid:{os.getuid() + 1}")
    async with channel(house) as opened:
        with pytest.raises(GRPCError) as refused:
            await jwt(opened, audience=["x"])
        assert refused.value.status is Status.PERMISSION_DENIED
        assert refused.value.message == "no identity issued"
        for name in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"):
            with pytest.raises(GRPCError) as refused:
                await first_of(opened, name)
            assert refused.value.status is Status.PERMISSION_DENIED


@pytest.mark.parametrize(
    "audience", [[], [""], ["x", ""], [f"a{n}" for n in range(17)], ["x" * 2049]]
)
async def test_a_jwt_svid_for_no_audience_or_too_many_is_an_invalid_argument(
    house: House, audience: list[str]
):
    house.roll.admit("a", ME)
    async with channel(house) as opened:
        with pytest.raises(GRPCError) as refused:
            await jwt(opened, audience=audience)
    assert refused.value.status is Status.INVALID_ARGUMENT


async def test_a_workload_of_several_identities_gets_all_or_the_one_it_asks_for(house: House):
    house.roll.admit("b", ME)
    house.roll.admit("a", ME)
    async with channel(house) as opened:
        every = await jwt(opened, audience=["x"])
        assert [one.spiffe_id for one in every.svids] == [str(agent_id("a")), str(agent_id("b"))]
        one = await jwt(opened, audience=["x"], spiffe_id=str(agent_id("b")))
        assert [svid.spiffe_id for svid in one.svids] == [str(agent_id("b"))]
        with pytest.raises(GRPCError) as refused:
            await jwt(opened, audience=["x"], spiffe_id=str(agent_id("c")))
    assert refused.value.status is Status.PERMISSION_DENIED


async def test_a_registered_process_gets_only_its_agents_identity(house: House):
    me = process(os.getpid())
    assert me is not None
    house.roll.admit("by-selector", ME)
    house.book.register("mine", me.pid, me.start_time, os.getuid())
    async with channel(house) as opened:
        with pytest.raises(GRPCError) as refused:
            await jwt(opened, audience=["x"])
        assert refused.value.status is Status.PERMISSION_DENIED
        house.roll.agents.add("mine")
        svids = (await jwt(opened, audience=["x"])).svids
    assert [one.spiffe_id for one in svids] == [str(agent_id("mine"))]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0\0\3\xff\xff\xff",
        b"\1\0\0\0\0",
        b"\0\0\0\0\5x",
        b"\0\0",
        b"\0\0\0\0\x04\x0a\x02\xff\xff",
    ],
)
async def test_a_malformed_request_is_an_invalid_argument_and_the_server_goes_on(
    house: House, body: bytes
):
    house.roll.admit("a", ME)
    async with channel(house) as opened:
        headers = await raw(opened, "FetchJWTSVID", body)
        assert headers["grpc-status"] == str(Status.INVALID_ARGUMENT.value)
        assert (await jwt(opened, audience=["x"])).svids


async def test_a_request_that_never_ends_costs_its_connection(house: House):
    house.roll.admit("a", ME)
    async with channel(house) as opened:
        with pytest.raises((StreamTerminatedError, GRPCError)):
            await jwt(opened, audience=["x" * 100_000])
    async with channel(house) as opened:
        assert (await jwt(opened, audience=["x"])).svids


async def test_bytes_that_are_not_http2_cost_only_their_connection(house: House):
    house.roll.admit("a", ME)
    reader, writer = await asyncio.open_unix_connection(house.path)
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
    async with asyncio.timeout(SECONDS):
        await reader.read()
    writer.close()
    async with channel(house) as opened:
        assert (await jwt(opened, audience=["x"])).svids


async def test_an_unknown_method_is_unimplemented(house: House):
    async with channel(house) as opened:
        headers = await raw(opened, "FetchSecrets", b"")
    assert headers["grpc-status"] == str(Status.UNIMPLEMENTED.value)


async def test_a_rotation_is_pushed_into_every_open_stream(house: House):
    house.roll.admit("a", ME)
    house.domain.listen(house.api.changed)
    async with (
        channel(house) as opened,
        streaming(opened, "FetchX509SVID").open(metadata=HEADER) as svids,
        streaming(opened, "FetchX509Bundles").open(metadata=HEADER) as authorities,
        streaming(opened, "FetchJWTBundles").open(metadata=HEADER) as keys,
    ):
        streams = (svids, authorities, keys)
        for stream in streams:
            await stream.send_message(stream._send_type(), end=True)
        async with asyncio.timeout(SECONDS):
            before = [await stream.recv_message() for stream in streams]
            house.domain.rotate()
            after = [await stream.recv_message() for stream in streams]
        for old, new in zip(before, after, strict=True):
            assert old != new
        assert before[0].svids[0].bundle != after[0].svids[0].bundle
        assert list(after[1].bundles) == [f"spiffe://{DOMAIN}"]
        assert after[0].svids[0].bundle == after[1].bundles[f"spiffe://{DOMAIN}"]
        for stream in streams:
            await stream.cancel()


async def test_an_x509_svid_is_renewed_at_half_of_its_life_and_not_before(house: House):
    house.roll.admit("a", ME)
    async with WorkloadClient(house.endpoint) as client, asyncio.timeout(SECONDS):
        stream = client.watch_x509_svid()
        first = await anext(stream)
        leaf = x509.load_der_x509_certificate(first.chain)
        house.clock.ahead = (leaf.not_valid_after_utc - house.clock()) / 2 - timedelta(seconds=60)
        following = asyncio.ensure_future(anext(stream))
        house.api.changed()
        await asyncio.sleep(0.1)
        assert not following.done()
        house.clock.ahead += timedelta(seconds=61)
        house.api.changed()
        second = await following
        assert second.spiffe_id == first.spiffe_id
        assert second.private_key != first.private_key
        await stream.aclose()


async def test_a_stream_that_nobody_wakes_looks_again_by_itself(tmp_path: Path):
    async with workload_house(tmp_path, Limits(recheck_seconds=0.02)) as house:
        house.roll.admit("a", ME)
        async with WorkloadClient(house.endpoint) as client, asyncio.timeout(SECONDS):
            stream = client.watch_x509_svid()
            first = await anext(stream)
            house.domain.rotate()
            assert (await anext(stream)).bundle != first.bundle
            await stream.aclose()


async def test_a_suspended_agents_open_stream_is_ended(house: House):
    house.roll.admit("a", ME)
    async with WorkloadClient(house.endpoint) as client, asyncio.timeout(SECONDS):
        stream = client.watch_x509_svid()
        await anext(stream)
        house.roll.by_selector.clear()
        house.api.changed()
        with pytest.raises(UnidentifiedError):
            await anext(stream)
        with pytest.raises(UnidentifiedError):
            await client.fetch_jwt_svid("x")
    assert house.api.open_streams == 0


async def test_one_process_opens_only_so_many_streams(tmp_path: Path):
    async with workload_house(tmp_path, Limits(streams_per_process=2)) as house:
        house.roll.admit("a", ME)
        async with WorkloadClient(house.endpoint) as client, asyncio.timeout(SECONDS):
            streams = [client.watch_x509_svid() for _ in range(3)]
            await anext(streams[0])
            await anext(streams[1])
            with pytest.raises(UnavailableError, match="too many open streams"):
                await anext(streams[2])
            await streams[0].aclose()
            await until(lambda: house.api.open_streams == 1)
            assert (await client.fetch_x509_svid()).spiffe_id == str(agent_id("a"))
            await streams[1].aclose()


async def test_too_many_connections_are_closed_and_room_is_made_again(tmp_path: Path):
    async with workload_house(tmp_path, Limits(connections=2)) as house:
        house.roll.admit("a", ME)
        held = [await asyncio.open_unix_connection(house.path) for _ in range(2)]
        for reader, _ in held:
            await reader.read(1)
        async with WorkloadClient(house.endpoint, timeout_seconds=SECONDS) as client:
            with pytest.raises(UnavailableError):
                await client.fetch_jwt_svid("x")
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(SECONDS):
            while True:
                async with WorkloadClient(house.endpoint) as client:
                    try:
                        assert await client.fetch_jwt_svid("x")
                        break
                    except UnavailableError:
                        await asyncio.sleep(0.01)


async def test_two_hundred_quick_connections_all_get_their_identity(house: House):
    house.roll.admit("a", ME)
    descriptors = open_descriptors()

    async def one() -> str:
        async with WorkloadClient(house.endpoint) as client:
            return await client.fetch_jwt_svid("x")

    gate = asyncio.Semaphore(50)

    async def bounded() -> str:
        async with gate:
            return await one()

    assert all(await asyncio.gather(*(bounded() for _ in range(200))))
    await until(lambda: open_descriptors() <= descriptors)


async def test_closing_ends_open_streams_so_that_clients_try_again(tmp_path: Path):
    async with workload_house(tmp_path, TOLD_ONLY) as house:
        house.roll.admit("a", ME)
        async with WorkloadClient(house.endpoint) as client, asyncio.timeout(SECONDS):
            streams = [client.watch_x509_svid() for _ in range(5)]
            for stream in streams:
                await anext(stream)
            await house.api.close()
            for stream in streams:
                with pytest.raises(UnavailableError, match="shutting down"):
                    await anext(stream)
            assert not house.path.exists()
            await house.api.close()
            with pytest.raises(UnavailableError):
                await client.fetch_jwt_svid("x")


async def test_trouble_inside_the_authority_is_unavailable_and_says_nothing_of_it(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    house.roll.admit("a", ME)

    def broken(*_: object) -> str:
        raise RuntimeError("key at /secret/place")

    monkeypatch.setattr(house.domain, "issue_jwt_svid", broken)
    async with channel(house) as opened:
        with pytest.raises(GRPCError) as failed:
            await jwt(opened, audience=["x"])
    assert failed.value.status is Status.UNAVAILABLE
    assert "secret" not in str(failed.value)


async def test_a_jwt_svid_is_validated_and_its_claims_come_back(house: House):
    house.roll.admit("a", ME)
    async with channel(house) as opened:
        method = unary(
            opened, "ValidateJWTSVID", pb.ValidateJWTSVIDRequest, pb.ValidateJWTSVIDResponse
        )
        told = await method(
            pb.ValidateJWTSVIDRequest(audience="known", svid="t"), metadata=HEADER, timeout=SECONDS
        )
        assert told.spiffe_id == str(agent_id("told"))
        assert told.claims["deep"]["a"][0] == 1
        for fields in ({"audience": "other", "svid": "t"}, {"audience": "known"}, {"svid": "t"}):
            with pytest.raises(GRPCError) as refused:
                await method(pb.ValidateJWTSVIDRequest(**fields), metadata=HEADER, timeout=SECONDS)
            assert refused.value.status is Status.INVALID_ARGUMENT


async def test_the_socket_and_its_folder_are_the_owners_alone(house: House):
    assert stat.S_IMODE(house.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(house.path.parent.stat().st_mode) == 0o700


def test_a_shared_socket_is_for_everyone_in_a_folder_that_only_its_owner_writes(tmp_path: Path):
    path = tmp_path / "shared" / "s"
    with listen(path, shared=True):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
    path.unlink()
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others"):
        listen(path, shared=True)
    with pytest.raises(ConfigError, match="is open to others"):
        listen(path)


def test_a_path_too_long_taken_or_in_the_way_is_a_clear_error(tmp_path: Path):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match="too long"):
        listen(folder / ("x" * 120))
    path = folder / "s"
    with listen(path), pytest.raises(ConfigError, match="another process answers"):
        listen(path)
    with listen(path):  # what a crash leaves behind is no obstacle
        pass
    path.unlink()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is not a socket"):
        listen(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("endpoint", ["", "/run/s", "tcp://127.0.0.1:1", "unix:s", "unix://host/s"])
def test_a_client_refuses_an_endpoint_that_is_no_unix_path(endpoint: str):
    with pytest.raises(ConfigError):
        WorkloadClient(endpoint)


async def test_the_client_takes_both_spellings_and_tells_an_authority_that_is_away(
    house: House, tmp_path: Path
):
    house.roll.admit("a", ME)
    async with WorkloadClient(f"unix://{house.path}") as client:
        assert await client.fetch_jwt_svid(["x", "y"])
        with pytest.raises(InputError):
            await client.fetch_jwt_svid([])
    with pytest.raises(ConfigError):
        await client.fetch_jwt_svid("x")
    async with WorkloadClient(f"unix:{tmp_path}/nobody") as client:
        with pytest.raises(UnavailableError):
            await client.fetch_x509_svid()


async def test_a_process_gets_an_identity_that_is_good_with_its_key_only(house: House):
    house.roll.admit("a", ME)
    key = ProofKey.generate().thumbprint
    async with WorkloadClient(house.endpoint) as client:
        bound = await client.fetch_jwt_svid("remit", key=key)
        plain = await client.fetch_jwt_svid("remit")
    assert json.loads(jws.extract_compact(bound.encode()).payload)["cnf"] == {"jkt": key}
    assert "cnf" not in json.loads(jws.extract_compact(plain.encode()).payload)


@pytest.mark.parametrize("keys", [("junk",), ("own",), ("A" * 43, "B" * 43)])
async def test_an_identity_is_bound_to_one_key_or_none(house: House, keys: tuple[str, ...]):
    house.roll.admit("a", ME)
    metadata = [*HEADER.items(), *((KEY_HEADER, key) for key in keys)]
    async with channel(house) as opened:
        with pytest.raises(GRPCError) as caught:
            await jwt(opened, metadata=metadata, audience=["remit"])
    assert caught.value.status is Status.INVALID_ARGUMENT
