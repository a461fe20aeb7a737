from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from remit.identity.bundle import MAX_BUNDLE_BYTES, parse_bundle
from remit.identity.federation import Federation, Peer
from remit.model.errors import ConfigError, InputError
from remit.testing.identity import ForeignSigner, ManualClock, trust_domain

NAME = "foreign.example"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def from_file(tmp_path: Path, clock: ManualClock) -> Federation:
    own = trust_domain(tmp_path, clock=clock)
    peer = Peer(trust_domain=NAME, bundle=str(tmp_path / "b.json"))
    return Federation(own, [peer], clock=clock)


async def test_a_bundle_comes_from_a_file_and_is_read_again_when_it_changes(
    tmp_path: Path, clock: ManualClock
) -> None:
    heard: list[int] = []
    federation = from_file(tmp_path, clock)
    end = federation.listen(lambda: heard.append(1))
    assert federation.bundle_of(NAME) is None
    (tmp_path / "b.json").write_bytes(ForeignSigner("one").bundle())
    await federation.refresh()
    first = federation.bundle_of(NAME)
    assert first is not None
    assert set(first.jwt_keys) == {"one"}
    assert list(federation.bundles()) == [NAME]
    clock.move(11)
    await federation.refresh()
    assert federation.bundle_of(NAME) is first
    (tmp_path / "b.json").write_bytes(ForeignSigner("two").bundle(sequence=2))
    clock.move(11)
    await federation.refresh()
    second = federation.bundle_of(NAME)
    assert second is not None
    assert set(second.jwt_keys) == {"two"}
    assert heard == [1, 1]
    end()
    assert federation.bundle_of("unknown.example") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[1]}',
        b'{"keys":[],"keys":[]}',
        b'{"keys":[],"spiffe_sequence":-1}',
        b'{"keys":[],"spiffe_sequence":"3"}',
        b'{"keys":[],"spiffe_refresh_hint":1.5}',
        b'{"keys":[],"spiffe_refresh_hint":true}',
        b" " * (MAX_BUNDLE_BYTES + 10),
        json.dumps({"keys": [{}] * 300}).encode(),
        json.dumps({"keys": [ForeignSigner("a").jwk()] * 2}).encode(),
        json.dumps({"keys": [{**ForeignSigner("a").jwk(), "kid": ""}]}).encode(),
        json.dumps({"keys": [{**ForeignSigner("a").jwk(), "d": "AA"}]}).encode(),
        json.dumps({"keys": [{**ForeignSigner("a").jwk(), "x": "AA"}]}).encode(),
        json.dumps({"keys": [{**ForeignSigner("a").jwk(), "crv": "P-384"}]}).encode(),
        json.dumps({"keys": [{**ForeignSigner("a").jwk(), "alg": "ES384"}]}).encode(),
        json.dumps({"keys": [{**ForeignSigner("a").jwk(), "key_ops": ["sign"]}]}).encode(),
        json.dumps({"keys": [{"use": "jwt-svid", "kty": "oct", "kid": "a", "k": "AA"}]}).encode(),
        json.dumps({"keys": [{"use": "x509-svid", "kty": "EC"}]}).encode(),
        json.dumps({"keys": [{"use": "x509-svid", "x5c": ["AA"]}]}).encode(),
        json.dumps({"keys": [{"use": "x509-svid", "x5c": [1]}]}).encode(),
    ],
)
async def test_a_bundle_that_is_wrong_leaves_the_last_good_one(
    tmp_path: Path, clock: ManualClock, data: bytes
) -> None:
    federation = from_file(tmp_path, clock)
    (tmp_path / "b.json").write_bytes(ForeignSigner().bundle())
    await federation.refresh()
    good = federation.bundle_of(NAME)
    (tmp_path / "b.json").write_bytes(data)
    clock.move(11)
    await federation.refresh()
    assert good is not None
    assert federation.bundle_of(NAME) is good
    assert list(federation.troubles()) == [NAME]
    with pytest.raises(InputError):
        parse_bundle(NAME, data)


async def test_an_older_bundle_is_refused_as_a_replay(tmp_path: Path, clock: ManualClock) -> None:
    federation = from_file(tmp_path, clock)
    for kid, sequence in (("new", 5), ("old", 4)):
        (tmp_path / "b.json").write_bytes(ForeignSigner(kid).bundle(sequence=sequence))
        await federation.refresh()
        clock.move(60)
    bundle = federation.bundle_of(NAME)
    assert bundle is not None
    assert set(bundle.jwt_keys) == {"new"}
    assert "sequence 4" in federation.troubles()[NAME]


@pytest.mark.parametrize(
    "bundle",
    ["http://foreign.example/b", "file:///etc/b", "https://a:b@foreign.example/b", "ftp://x/b"],
)
async def test_an_address_that_is_not_https_is_refused(
    tmp_path: Path, clock: ManualClock, bundle: str
) -> None:
    own = trust_domain(tmp_path, clock=clock)
    with pytest.raises(ConfigError):
        Federation(own, [Peer(trust_domain=NAME, bundle=bundle)], clock=clock)


@pytest.mark.parametrize("names", [["test.example"], [NAME, NAME], ["Foreign"], ["a/b"], [""]])
def test_a_trust_domain_that_is_wrong_or_twice_is_refused(
    tmp_path: Path, clock: ManualClock, names: list[str]
) -> None:
    own = trust_domain(tmp_path, clock=clock)
    with pytest.raises(ConfigError):
        Federation(own, [Peer(trust_domain=n, bundle="b.json") for n in names], clock=clock)


class Endpoint:
    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return self.answers.pop(0)


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[Endpoint, str]]:
    one = Endpoint()
    app = web.Application()
    app.router.add_get("/bundle", one.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield one, f"http://127.0.0.1:{runner.addresses[0][1]}/bundle"
    await runner.cleanup()


async def test_an_endpoint_is_asked_by_its_hint_and_trouble_keeps_the_last_bundle(
    tmp_path: Path, clock: ManualClock, endpoint: tuple[Endpoint, str]
) -> None:
    served, url = endpoint
    key = ForeignSigner("one").jwk()
    hinted = json.dumps({"keys": [key], "spiffe_refresh_hint": 120}).encode()
    served.answers = [
        web.Response(body=hinted),
        web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        web.Response(body=b" " * (MAX_BUNDLE_BYTES + 1)),
        web.Response(body=b'{"keys":[]}'),
    ]
    async with aiohttp.ClientSession() as session:
        federation = Federation(
            trust_domain(tmp_path, clock=clock),
            [Peer(trust_domain=NAME, bundle=url)],
            session=session,
            clock=clock,
        )
        await federation.refresh()
        good = federation.bundle_of(NAME)
        assert good is not None
        clock.move(119)
        await federation.refresh()
        assert served.asked == 1
        clock.move(1)
        await federation.refresh()
        assert "status 302" in federation.troubles()[NAME]
        clock.move(30)
        await federation.refresh()
        assert "larger than" in federation.troubles()[NAME]
        assert federation.bundle_of(NAME) is good
        clock.move(30)
        await federation.refresh()
        assert federation.troubles() == {}
        emptied = federation.bundle_of(NAME)
        assert emptied is not None
        assert emptied.jwt_keys == {}


async def test_a_pipe_in_place_of_a_bundle_does_not_hang(
    tmp_path: Path, clock: ManualClock
) -> None:
    os.mkfifo(tmp_path / "b.json")
    federation = from_file(tmp_path, clock)
    await asyncio.wait_for(federation.refresh(), 5)
    assert list(federation.troubles()) == [NAME]
