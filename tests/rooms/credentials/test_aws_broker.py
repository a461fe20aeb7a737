"""The AWS broker's configuration and grants, what an argument cannot widen, and bad answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from scripted_target import Script, lab, surroundings

from remit.credentials.brokers.aws.broker import AwsBroker
from remit.credentials.brokers.aws.options import Grants
from remit.model.errors import BrokerError, ConfigError, NotMintedError

OPTIONS: dict[str, Any] = {
    "role": "arn:aws:iam::123456789012:role/agents/reports",
    "region": "eu-central-1",
}
KEYS = {"login": "keys", "access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "env:AWS_S"}
READ = {"Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::reports/*"]}


class Signer:
    issuer = "https://remit.example"

    def sign_jwt(self, claims: Any, *, typ: str = "JWT") -> str:
        return "e.y.J"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_S", "s" * 40)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"role": "arn:aws:iam::123456789012:user/x"}, "role"),
        ({"role": "reports"}, "role"),
        ({"role": "arn:aws:iam::123456789012:role/x\n"}, "role"),
        ({"role": "arn:aws:iam::123456789012:role/ä"}, "role"),
        ({"region": "eu"}, "region"),
        ({"region": "eu-central-1.evil.example/"}, "region"),
        ({"sts_url": "http://sts.example"}, "sts_url"),
        ({"iam_url": "https://u:p@iam.example"}, "iam_url"),
        ({"iam_url": "https://iam.example/path"}, "iam_url"),
        ({"login": "keys"}, "access_key_id"),
        ({**KEYS, "secret_access_key": "wJalrXUtnFEMI"}, "secret_access_key"),
        ({**KEYS, "secret_access_key": None}, "secret_access_key"),
        ({**KEYS, "access_key_id": "AKIA\r\nX: y"}, "access_key_id"),
        ({**KEYS, "revoker_role": OPTIONS["role"]}, "revoker_role"),
        ({"access_key_id": "AKIAIOSFODNN7EXAMPLE"}, "access_key_id"),
        ({"external_id": "x"}, "external_id"),
        ({"revoke": "session"}, "revoker_role"),
        ({"revoke": "deny_older"}, "deny_older"),
        ({"audience": ""}, "audience"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"session_token": "x"}, "session_token"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_name_the_table_and_the_key(
    tmp_path: Path, changes: dict[str, Any], said: str
):
    given = {key: value for key, value in {**OPTIONS, **changes}.items() if value is not None}
    with pytest.raises(ConfigError) as raised:
        AwsBroker("aws", given, surroundings(tmp_path, signer=Signer()))
    assert "[broker.aws]" in str(raised.value)
    assert said in str(raised.value)
    assert "wJalrXUtnFEMI" not in str(raised.value)


def statement(**changes: Any) -> dict[str, Any]:
    return {"policy": [{**READ, **changes}]}


@pytest.mark.parametrize(
    "grant",
    [
        {},
        {"policy": []},
        {"whole_role": True, "policy": [READ]},
        {"whole_role": False},
        statement(Action=[]),
        statement(Action=["GetObject"]),
        statement(Action=["s3:Get Object"]),
        statement(Action="s3:GetObject"),
        statement(Action=["s3:{args.action}"]),
        statement(Resource=[]),
        statement(Resource=["reports"]),
        statement(Resource=["{args.arn}"]),
        statement(Effect="{args.effect}"),
        statement(Effect="Maybe"),
        statement(Principal="*"),
        statement(NotAction=["s3:*"]),
        statement(Condition={"{args.x}": {"a": "b"}}),
        statement(Resource=["arn:aws:s3:::" + "x" * 2100]),
        statement(Resource=["arn:aws:s3:::" + "é" * 500]),
        {"policy_arns": ["arn:aws:iam::aws:policy/{args.p}"]},
        {"policy_arns": ["ReadOnlyAccess"]},
        {"policy_arns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"] * 11},
        {"policy": [READ], "tags": {"aws:x": "y"}},
        {"policy": [READ], "tags": {"": "y"}},
        {"policy": [READ], "tags": {"k" * 129: "y"}},
        {"policy": [READ], "tags": {"k": "y" * 257}},
        {"policy": [READ], "tags": {"k": "a\nb"}},
        {"policy": [READ], "tags": {"k": "*"}},
        {"policy": [READ], "tags": {"Team": "a", "team": "b"}},
        {"policy": [READ], "tags": {f"k{n}": "v" for n in range(51)}},
        {"policy": [READ], "tags": {"{args.k}": "v"}},
        {"policy": [READ], "duration": 43200},
    ],
    ids=lambda grant: repr(grant)[:80],
)
def test_grants_that_make_no_sense_are_refused_when_they_are_read(grant: dict[str, Any]):
    with pytest.raises(ConfigError):
        Grants().check(grant)


TEMPLATE = statement(
    Resource=["arn:aws:s3:::reports/{args.team}/*", "arn:aws:s3:::{args.bucket}"],
    Condition={"StringEquals": {"aws:RequestedRegion": "{args.region}"}},
)


def filled(team: Any = "sales", bucket: Any = "x", region: Any = "eu-central-1") -> Any:
    return statement(
        Resource=[
            f"arn:aws:s3:::reports/{team}/*" if isinstance(team, str) else team,
            f"arn:aws:s3:::{bucket}" if isinstance(bucket, str) else bucket,
        ],
        Condition={"StringEquals": {"aws:RequestedRegion": region}},
    )


def test_an_argument_may_name_what_the_template_leaves_open():
    grants = Grants()
    grants.check(TEMPLATE)
    text = grants.filled(filled(), {}).policy_text() or ""
    assert '"arn:aws:s3:::reports/sales/*"' in text


@pytest.mark.parametrize(
    "hostile",
    [
        {"team": "*"},
        {"team": "sal?s"},
        {"team": ""},
        {"team": "${aws:username}"},
        {"team": "a\nb"},
        {"team": 'a"],"Effect":"Allow'},
        {"team": "sales/é"},
        {"team": ["*"]},
        {"bucket": "*"},
        {"bucket": 'a","b'},
        {"bucket": ["arn:aws:s3:::a", "arn:aws:s3:::b"]},
        {"bucket": 7},
        {"region": "*"},
        {"region": ["eu-central-1", "us-east-1"]},
        {"region": ""},
    ],
    ids=repr,
)
def test_an_argument_never_widens_a_session_policy(hostile: dict[str, Any]):
    grants = Grants()
    grants.check(TEMPLATE)
    with pytest.raises(ConfigError):
        grants.filled(filled(**hostile), {})


def test_a_statement_that_no_template_has_is_refused():
    grants = Grants()
    grants.check(TEMPLATE)
    grown = filled()
    grown["policy"].append(READ)
    with pytest.raises(ConfigError):
        grants.filled(grown, {})


def test_what_another_grant_of_the_broker_may_is_no_excuse_for_an_argument():
    """A wildcard that one operator's grant has must not be an argument's to put into another."""
    grants = Grants()
    grants.check(statement(Resource=["arn:aws:s3:::reports/{args.team}/*"]))
    grants.check(statement(Resource=["arn:aws:s3:::reports/*/*"]))
    wide = statement(Resource=["arn:aws:s3:::reports/*/*"])
    with pytest.raises(ConfigError, match="team"):
        grants.filled(wide, {"team": "*"})
    assert grants.filled(wide, {"team": "sales"}), "as the second grant has it"
    assert grants.filled(wide, {}), "as the second grant has it"
    assert grants.filled(wide, {"team": ""}), "as the second grant has it"
    assert grants.filled(statement(Resource=["arn:aws:s3:::reports/sales/*"]), {"team": "sales"})


# --- a server that answers as a test says ---


@pytest.fixture
async def make(tmp_path: Path, script: Script) -> AsyncIterator[Callable[..., AwsBroker]]:
    async with aiohttp.ClientSession(trust_env=False) as http:

        def one(**options: Any) -> AwsBroker:
            given = {**OPTIONS, "sts_url": script.url, "iam_url": script.url, **options}
            return AwsBroker("aws", given, surroundings(tmp_path, http, Signer()))

        yield one


def order(broker: AwsBroker) -> Any:
    return lab(broker, {"policy": [READ]}).order()


GOOD = b"""<R xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Credentials>
<AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>k</SecretAccessKey>
<SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></R>"""


@pytest.mark.parametrize(
    ("status", "body", "certain"),
    [
        (403, b"<E><Error><Code>AccessDenied</Code><Message>k3y</Message></Error></E>", True),
        (400, b"<E><Error><Code>PackedPolicyTooLarge</Code></Error></E>", True),
        (400, b"<E><Error><Code>k3y is &lt;secret&gt;</Code></Error></E>", True),
        (500, b"<E><Error><Code>InternalFailure</Code></Error></E>", False),
        (503, b"", False),
        (200, b"", False),
        (200, b"<html>k3y", False),
        (200, b"<R/>", False),
        (200, GOOD % b"tomorrow", False),
        (200, GOOD % b"2026-01-01T00:00:00", False),
        (302, b"<R/>", False),
        (200, b'<!DOCTYPE a [<!ENTITY b "k3y">]><R><AccessKeyId>&c;</AccessKeyId></R>', False),
    ],
)
async def test_only_a_refusal_says_that_nothing_was_minted_and_no_answers_text_is_told(
    make: Callable[..., AwsBroker], script: Script, status: int, body: bytes, certain: bool
):
    script.answers = [(status, body)]
    script.headers = {"Location": "https://evil.example/"} if status == 302 else {}
    broker = make()
    with pytest.raises(BrokerError) as raised:
        await broker.issue(order(broker))
    assert isinstance(raised.value, NotMintedError) is certain
    assert "k3y" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(script.asked) == 1


async def test_an_argument_that_widens_asks_nothing_of_aws(
    make: Callable[..., AwsBroker], script: Script
):
    broker = make()
    broker.check(TEMPLATE)
    with pytest.raises(NotMintedError, match="widen"):
        await broker.issue(lab(broker, {"policy": [READ]}).order(grant=filled(team="*")))
    assert not script.asked


async def test_a_long_answer_is_read_to_its_end_and_one_without_an_end_is_not(
    make: Callable[..., AwsBroker], script: Script, monkeypatch: pytest.MonkeyPatch
):
    long = b"<A>" + b" " * 400_000 + GOOD % b"2030-01-01T00:00:00Z" + b"</A>"
    script.answers = [(200, long)]
    broker = make()
    assert (await broker.issue(order(broker))).values["access_key_id"] == "ASIA"
    monkeypatch.setattr("remit.credentials.brokers.aws.api._MOST_BYTES", 100_000)
    with pytest.raises(BrokerError, match="100000 bytes") as raised:
        await broker.issue(order(broker))
    assert not isinstance(raised.value, NotMintedError)
