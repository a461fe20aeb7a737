"""What `remit doctor` hears of a real OpenBao: what Remit's own token may do, lacks, and made."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from openbao import Server, openbao_server

from remit.credentials.brokers.openbao.broker import OpenBaoBroker
from remit.credentials.port import Finding, Surroundings, Surveyor
from remit.model.errors import BrokerError

pytestmark = pytest.mark.real

INSTALLATION = "remit-0a1b2c3d"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openbao_server() as running:
        running.role("reader")
        yield running


def token(server: Server, folder: Path, *policies: str, **parameters: Any) -> Path:
    made = server.root.auth.token.create(policies=list(policies), **{"ttl": "1h", **parameters})
    file = folder / "own.token"
    file.touch(mode=0o600)
    file.write_text(made["auth"]["client_token"])
    return file


async def surveyed(server: Server, file: Path, **options: Any) -> list[Finding]:
    table = {"url": server.url, "token_role": "remit", "token_file": str(file), **options}
    broker = OpenBaoBroker(
        "bao",
        {key: value for key, value in table.items() if value is not None},
        Surroundings(
            http=None,  # type: ignore[arg-type]
            clock=lambda: datetime.now(UTC),
            signer=None,  # type: ignore[arg-type]
            installation=INSTALLATION,
            state=file.parent,
            path=Path,
        ),
    )
    try:
        assert isinstance(broker, Surveyor)
        return list(await broker.survey())
    finally:
        await broker.close()


async def said(server: Server, file: Path, **options: Any) -> list[str]:
    return [each.said for each in await surveyed(server, file, **options)]


async def test_a_token_with_the_policy_of_the_docs_leaves_nothing_to_say(
    server: Server, tmp_path: Path
):
    assert await said(server, token(server, tmp_path, "remit")) == []


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"ttl": "400h"}, "lives for another"),
        ({"period": "400h"}, "after each renewal"),
        ({"num_uses": 1000}, "more requests only"),
    ],
)
async def test_a_token_that_lives_too_long_or_too_short_is_told(
    server: Server, tmp_path: Path, parameters: dict[str, Any], words: str
):
    (one,) = await said(server, token(server, tmp_path, "remit", **parameters))
    assert words in one


async def test_a_root_token_is_all_there_is_to_say(server: Server, tmp_path: Path):
    file = token(server, tmp_path, "root", ttl="0")
    (one,) = await said(server, file)
    assert "root token" in one


async def test_what_a_token_may_do_beside_its_work_is_told_by_its_path(
    server: Server, tmp_path: Path
):
    server.root.sys.create_or_update_policy(
        "too-much",
        'path "sys/policies/*" { capabilities = ["create", "update"] }\n'
        'path "auth/token/create-orphan" { capabilities = ["update", "sudo"] }\n'
        'path "auth/token/create" { capabilities = ["update"] }\n'
        'path "auth/token/roles/*" { capabilities = ["read", "update"] }\n'
        'path "sys/mounts/*" { capabilities = ["read"] }\n',
    )
    found = await surveyed(server, token(server, tmp_path, "remit", "too-much"))
    paths = {each.said.partition("(`")[2].partition("`")[0] for each in found}
    assert paths == {
        "sys/policies/acl/any",
        "auth/token/create-orphan",
        "auth/token/create",
        "auth/token/roles/remit",
    }
    assert not any(each.stops for each in found)


async def test_what_a_token_lacks_for_its_work_stops(server: Server, tmp_path: Path):
    server.root.sys.create_or_update_policy(
        "too-little", 'path "auth/token/lookup-accessor" { capabilities = ["update"] }'
    )
    found = await surveyed(server, token(server, tmp_path, "too-little"))
    assert all(each.stops for each in found)
    lacking = {each.said.partition("`")[2].partition("`")[0] for each in found}
    assert lacking == {
        "auth/token/create/remit",
        "auth/token/revoke-accessor",
        "auth/token/accessors",
        "sys/leases/revoke",  # looking one up is in `default`
    }
    less = await surveyed(server, token(server, tmp_path, "too-little"), list_accessors=False)
    assert len(less) == len(found) - 1


async def test_a_token_that_may_not_look_at_itself_is_told(server: Server, tmp_path: Path):
    found = await surveyed(server, token(server, tmp_path, "remit", no_default_policy=True))
    assert [each.stops for each in found] == [False, False]
    assert "lookup-self" in found[0].said
    assert "capabilities-self" in found[1].said


async def test_without_a_token_role_the_token_holds_what_it_grants(server: Server, tmp_path: Path):
    server.root.sys.create_or_update_policy(
        "creates", 'path "auth/token/create" { capabilities = ["update"] }'
    )
    (one,) = await said(server, token(server, tmp_path, "remit", "creates"), token_role=None)
    assert "token_role" in one


async def test_tokens_under_our_name_that_outlive_us_are_told(server: Server, tmp_path: Path):
    made = [
        server.root.auth.token.create(
            policies=["default"], meta={"remit_lease": f"{name}"}, **parameters
        )["auth"]["accessor"]
        for name, parameters in (
            (f"{INSTALLATION}-fine", {"ttl": "10m"}),
            (f"{INSTALLATION}-orphan", {"ttl": "10m", "no_parent": True}),
            ("remit-ffffffff-another", {"ttl": "10m", "no_parent": True}),
        )
    ]
    try:
        (one,) = await said(server, token(server, tmp_path, "remit"))
        assert f"`{INSTALLATION}-orphan` is an orphan" in one
    finally:
        for accessor in made:
            server.root.auth.token.revoke_accessor(accessor)


async def test_a_server_that_does_not_answer_is_no_finding(server: Server, tmp_path: Path):
    file = token(server, tmp_path, "remit")
    with pytest.raises(BrokerError, match="openbao"):
        await said(server, file, url="http://127.0.0.1:1")
