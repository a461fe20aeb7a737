"""From `[broker.NAME]` in the file to a lease that a person sees, revokes and verifies."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from processes import free_port

from remit import plugins
from remit.app.compose import House
from remit.app.config import Loaded, load
from remit.app.serve import serving
from remit.cli.main import status_of
from remit.credentials.port import Broker, Surroundings
from remit.model.errors import ConfigError
from remit.model.lease import LeaseState
from remit.model.subject import Environment
from remit.tasks.request import TaskRequest
from remit.testing.credentials import MemoryTarget


@dataclass(frozen=True)
class Package:
    name: str
    version: str = "1"


@dataclass
class Offered:
    """An entry point as a test offers it."""

    name: str
    value: str
    group: str
    dist: Package
    load: Callable[[], Any] = field(repr=False)


@dataclass
class Shelf:
    """What is installed, and the targets that were made."""

    offered: list[Offered] = field(default_factory=list)
    made: dict[str, MemoryTarget] = field(default_factory=dict)
    given: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def factory(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> Broker:
        if unknown := sorted(options.keys() - {"note"}):
            raise ConfigError(f"broker `{name}`: `{unknown[0]}` is not known")
        assert surroundings.installation.startswith("remit-")
        self.given[name] = options
        self.made[name] = MemoryTarget()
        return self.made[name]

    def offer(self, kind: str, package: str = "remit", load: Any = None) -> None:
        self.offered.append(
            Offered(kind, f"{package}:X", plugins.BROKERS, Package(package), load or self._load)
        )

    def _load(self) -> Any:
        return self.factory


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf()
    shelf.offer("memory")
    monkeypatch.setattr(plugins, "entry_points", lambda group: shelf.offered)
    return shelf


CONFIG = """\
[authority]
state = "s"
listen = "127.0.0.1:{port}"
[policy]
templates = "t"
[upstream.desk]
url = "http://127.0.0.1:1/mcp"
[upstream.desk.credential]
broker = "names"
scope = "task"
header = {{ Authorization = "Bearer {{token}}" }}
{more}
"""
BROKER = '[broker.names]\nkind = "memory"\nnote = "kept"\n'
TEMPLATE = 'purpose = "Read"\n[[capability]]\ntool = "desk/read"\nargs = { id = { const = "1" } }\n'


def written(folder: Path, more: str = BROKER) -> Loaded:
    (folder / "t").mkdir()
    (folder / "t" / "read.toml").write_text(TEMPLATE)
    (folder / "remit.toml").write_text(CONFIG.format(port=free_port(), more=more))
    return load(folder / "remit.toml")


@pytest.fixture
async def up(tmp_path: Path, shelf: Shelf) -> AsyncIterator[House]:
    async with serving(written(tmp_path)) as house:
        yield house


async def minted(house: House, shelf: Shelf) -> str:
    """Mint for a task that runs, as a permitted call does; return the lease's id."""
    from lease_book import Book  # noqa: PLC0415 - only for its call and decision

    authority = house.authority
    agent = authority.registry.get("helper") or await authority.registry.register(
        "helper",
        by="user:ada",
        owner="user:ada",
        purpose="Help",
        environment=Environment.DEV,
        autonomy=2,
        templates=("read",),
    )
    opened = await authority.tasks.open(TaskRequest(template="read"), agent=agent, opened_by="x")
    book = Book()
    book.leases = authority.leases
    lease = book.reserve(opened.task, book.call(id="1"))
    await authority.leases.issue(lease)
    await authority.evidence.barrier()
    return lease.id


async def remit(house: House, *words: str) -> tuple[int, Any]:
    """Run the command line in a thread, with `--json`, against this authority."""
    import contextlib  # noqa: PLC0415 - beside its use
    import io  # noqa: PLC0415 - beside its use

    def run() -> tuple[int, str]:
        out = io.StringIO()
        config = str(house.loaded.source)
        with contextlib.redirect_stdout(out):
            code = status_of([*words, "--json", "--config", config])
        return code, out.getvalue()

    code, text = await asyncio.to_thread(run)
    return code, json.loads(text.splitlines()[-1])  # the house may log beside it


async def test_what_code_runs_inside_the_authority_is_in_evidence(up: House, shelf: Shelf):
    await up.authority.evidence.publisher.publish()
    records = await up.authority.evidence.log.entries(0, up.authority.evidence.publisher.size)
    (loaded,) = [json.loads(r) for r in records if b'"plugin.loaded"' in r]
    assert loaded["body"]["kind"] == "memory"
    assert loaded["body"]["package"] == "remit"
    assert shelf.given == {"names": {"note": "kept"}}


async def test_a_lease_is_listed_shown_in_words_and_revoked(up: House, shelf: Shelf):
    lease = await minted(up, shelf)
    code, listed = await remit(up, "lease", "list")
    assert code == 0
    assert [each["id"] for each in listed["items"]] == [lease]
    assert "sealed" not in listed["items"][0]
    assert "secret-of" not in json.dumps(listed)
    code, shown = await remit(up, "lease", "show", lease)
    assert (code, shown["state"]) == (0, "issued")
    code, revoked = await remit(up, "lease", "revoke", lease)
    assert (code, revoked["state"], revoked["confirmed"]) == (0, "settled", True)
    assert shelf.made["names"].live == set()
    code, shown = await remit(up, "lease", "show", lease)
    assert (code, shown["state"]) == (0, LeaseState.SETTLED.value)
    code, gone = await remit(up, "lease", "revoke", lease)
    assert code == 1
    assert "remit lease list" in gone["error"]["message"]


async def test_a_revocation_that_fails_is_marked_and_told(
    up: House, shelf: Shelf, capsys: pytest.CaptureFixture[str]
):
    lease = await minted(up, shelf)
    shelf.made["names"].fail_revoke = True
    code, _ = await remit(up, "lease", "revoke", lease)
    assert code == 0
    code, shown = await remit(up, "lease", "show", lease)
    assert shown["revoke_failed"]["attempts"] == 1
    assert shown["revoke_failed"]["reason"] == "the target is down"
    assert shown["revoke_failed"]["again_at"] > shown["revoke_failed"]["at"]
    code, listed = await remit(up, "lease", "list")
    assert listed["items"] == [shown]

    config = str(up.loaded.source)
    await asyncio.to_thread(status_of, ["lease", "show", lease, "--config", config])
    assert re.search(
        r"revocation failed +once, last at \S+: the target is down; asked again at \S+\n",
        capsys.readouterr().out,
    )
    await asyncio.to_thread(status_of, ["lease", "list", "--config", config])
    assert "settling, revocation failed once" in capsys.readouterr().out

    shelf.made["names"].fail_revoke = False
    await remit(up, "lease", "revoke", lease)
    code, shown = await remit(up, "lease", "show", lease)
    assert (shown["state"], shown["revoke_failed"]["again_at"]) == ("settled", None)


async def test_verify_none_is_green_only_where_every_target_said_so(up: House, shelf: Shelf):
    await minted(up, shelf)
    code, report = await remit(up, "credential", "verify-none")
    assert (code, report["none_stands"]) == (0, True)
    shelf.made["names"].live.add("remit-stray")
    code, report = await remit(up, "credential", "verify-none")
    assert (code, report["none_stands"]) == (1, False)
    assert [each["handle"] for each in report["items"]] == ["remit-stray"]
    shelf.made["names"].live.discard("remit-stray")
    shelf.made["names"].fail_revoke = True
    code, report = await remit(up, "credential", "verify-none")
    assert code == 1
    assert report["asked"][0]["trouble"] == "the target is down"
    shelf.made["names"].fail_revoke = False


async def test_a_changed_agent_has_what_it_holds_decided_again(
    up: House, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    await minted(up, shelf)
    asked: list[bool] = []
    monkeypatch.setattr(up.redeciding, "changed", lambda: asked.append(True))
    assert (await remit(up, "agent", "suspend", "helper"))[0] == 0
    assert asked == [True]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "there is no broker `names`"),
        ("[broker.names]\nnote = 1\n", "wants a `kind`"),
        ('[broker.names]\nkind = "nothing"\n', "no kind `nothing`; these are installed: memory"),
        ('[broker.names]\nkind = "memory"\nx = 1\n', "`x` is not known"),
        (f"grant = {{ columns = 1 }}\n{BROKER}", "`columns` is no grant"),
        (f'grant = {{ rows = "{{args.id}}" }}\n{BROKER}', 'wants `scope = "call"`'),
        (f'meta = {{ x = "{{token}}" }}\n{BROKER}'.replace("names", "other"), "no broker `names`"),
    ],
)
async def test_a_mistake_stops_the_start_and_names_the_place(
    tmp_path: Path, shelf: Shelf, more: str, said: str
):
    with pytest.raises(ConfigError) as caught:
        async with serving(written(tmp_path, more)):
            pass
    assert said in str(caught.value)


async def test_a_kind_whose_package_is_missing_says_what_to_install(tmp_path: Path, shelf: Shelf):
    def absent() -> Any:
        raise ModuleNotFoundError("no module named psycopg", name="psycopg")

    shelf.offered.clear()
    shelf.offer("memory", load=absent)
    with pytest.raises(ConfigError, match=r"`psycopg`.*install `remit\[memory\]`"):
        async with serving(written(tmp_path)):
            pass


async def test_a_kind_that_two_packages_offer_is_not_chosen_by_chance(tmp_path: Path, shelf: Shelf):
    shelf.offer("memory", package="somebody-elses")
    with pytest.raises(ConfigError, match="several packages: remit, somebody-elses"):
        async with serving(written(tmp_path)):
            pass


async def test_no_token_is_signed_for_the_authority_itself(tmp_path: Path):
    with pytest.raises(ConfigError, match="this authority's own"):
        async with serving(written(tmp_path, '[broker.names]\nkind = "jwt"\naudience = "remit"\n')):
            pass


BOUND = """\
[upstream.desk]
{upstream}
[upstream.desk.credential]
broker = "t"
{place}
[broker.t]
kind = "jwt"
audience = "https://crm.example"
{bound}
"""
HTTPS, PLAIN, COMMAND = 'url = "https://x/mcp"', 'url = "http://x/mcp"', 'command = ["x"]'
DPOP, MTLS = 'bound = "dpop"', 'bound = "mtls"'


@pytest.mark.parametrize(
    ("upstream", "place", "bound", "said"),
    [
        (HTTPS, 'header = { Authorization = "DPoP {token}" }', DPOP, 'add `DPoP = "{dpop}"`'),
        (HTTPS, 'header = { A = "{token}", B = "{dpop}" }', DPOP, 'add `DPoP = "{dpop}"`'),
        (HTTPS, 'header = { A = "{token}", DPoP = "x {dpop}" }', DPOP, 'add `DPoP = "{dpop}"`'),
        (COMMAND, 'env = { TOKEN = "{token}" }', DPOP, "only a `url` takes proofs"),
        (HTTPS, 'header = { A = "{token}", DPoP = "{dpop}" }', "", "gives no `{dpop}`"),
        (HTTPS, 'header = { A = "{token}", DPoP = "{dpop}" }', MTLS, "gives no `{dpop}`"),
        (HTTPS, 'header = { A = "{token}" }', MTLS, 'add `tls = "{bundle}"`'),
        (
            HTTPS,
            'header = { A = "{token}" }\ntls = "{certificate}"',
            MTLS,
            'add `tls = "{bundle}"`',
        ),
        (HTTPS, 'header = { A = "{token}" }\ntls = "client.pem"', MTLS, 'add `tls = "{bundle}"`'),
        (HTTPS, 'header = { A = "{token}" }\ntls = "{bundle}"', "", "gives no `{bundle}`"),
        (HTTPS, 'header = { A = "{token}" }\ntls = "{bundel}"', MTLS, "gives no `{bundel}`"),
        (PLAIN, 'header = { A = "{token}" }\ntls = "{bundle}"', MTLS, "`url` of https"),
        (COMMAND, 'env = { A = "{token}" }\ntls = "{bundle}"', MTLS, "`url` of https"),
        (COMMAND, 'env = { A = "{token}", B = "{private_key}" }', MTLS, "`{certificate}`"),
        (
            COMMAND,
            'env = { A = "{token}" }\nmeta = { "x.y/z" = "{bundle}" }',
            MTLS,
            "`{certificate}`",
        ),
    ],
)
async def test_a_token_whose_key_no_request_would_show_stops_the_start(
    tmp_path: Path, upstream: str, place: str, bound: str, said: str
):
    text = BOUND.format(upstream=upstream, place=place, bound=bound)
    (tmp_path / "remit.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        async with serving(load(tmp_path / "remit.toml")):
            pass
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("upstream", "place", "bound"),
    [
        (PLAIN, 'header = { A = "DPoP {token}", dpop = "{dpop}" }', DPOP),
        (HTTPS, 'header = { A = "{token}" }\ntls = "{bundle}"', MTLS),
        (HTTPS, 'header = { A = "{token}" }\ntls = "{certificate}{private_key}"', MTLS),
        (COMMAND, 'env = { A = "{token}", B = "{bundle}" }', MTLS),
        (COMMAND, 'env = { A = "{token}", B = "{private_key}", C = "{certificate}" }', MTLS),
    ],
)
async def test_a_token_is_bound_where_a_request_shows_its_key(
    tmp_path: Path, upstream: str, place: str, bound: str
):
    text = BOUND.format(upstream=upstream, place=place, bound=bound)
    (tmp_path / "remit.toml").write_text(f'[authority]\nlisten = "127.0.0.1:{free_port()}"\n{text}')
    async with serving(load(tmp_path / "remit.toml")) as house:
        assert house.authority.leases.brokers.keys() == {"t"}


@pytest.mark.parametrize(
    ("upstream", "said"),
    [
        (
            'url = "http://x/mcp"\n[upstream.desk.credential]\nbroker = "b"\n',
            "where the credential",
        ),
        (
            'command = ["x"]\n[upstream.desk.credential]\nbroker = "b"\nheader = { A = "{t}" }\n',
            "`header` belongs to an upstream with a `url`",
        ),
        (
            'url = "http://x/mcp"\n[upstream.desk.credential]\nbroker = "b"\nenv = { A = "{t}" }\n',
            "`env` belongs to an upstream with a `command`",
        ),
        (
            'url = "http://x/mcp"\ncredential = { broker = "b", seconds = 0, header = { A = "x" } }\n',
            "`seconds` is a number above zero",
        ),
    ],
)
def test_where_a_credential_goes_is_looked_at_when_it_is_read(
    tmp_path: Path, upstream: str, said: str
):
    (tmp_path / "remit.toml").write_text(
        f'[upstream.desk]\n{upstream}[broker.b]\nkind = "memory"\n'
    )
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "remit.toml")


def test_a_broker_that_is_not_where_its_package_says_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
):
    entry = EntryPoint("widgets", "remit.model.lease:NoSuchBroker", plugins.BROKERS)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])
    with pytest.raises(ConfigError, match=r"^broker `w`: kind `widgets` is not at .*anew$"):
        plugins.require_broker("w", {"kind": "widgets"})
