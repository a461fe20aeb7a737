from __future__ import annotations

from decimal import Decimal

import pytest

from remit.model.errors import ConfigError, InputError
from remit.model.label import Confidentiality
from remit.model.mandate import AmountLimit
from remit.model.subject import Environment
from remit.tasks.keys import parse_amount
from remit.tasks.request import TaskRequest
from remit.tasks.templates import parse_template, parse_templates

GOOD = b"""
purpose = "Refund customers"
[[capability]]
tool = "payments/refund"
args = { amount = { type = "number" } }
"""


def test_a_template_takes_its_name_from_its_file_and_its_digest_from_its_bytes() -> None:
    template = parse_template("templates/support.refund.toml", GOOD)

    assert template.name == "support.refund"
    assert template.digest.startswith("sha256:")
    assert template.environments == (Environment.DEV,)
    assert template.data_ceiling is Confidentiality.INTERNAL
    assert template.egress == ()
    assert template.expires_seconds == 1800


def test_an_amount_may_count_several_tools() -> None:
    text = (
        GOOD
        + b"""
[[capability]]
tool = "payments/credit"
other_args = true
[budget.amount.usd]
limit = "99.50"
from = [
  { tool = "payments/refund", argument = "amount" },
  { tool = "payments/credit", argument = "sum" },
]
"""
    )

    amounts = parse_template("a.toml", text).budget.amounts

    assert amounts == (
        AmountLimit(
            name="usd", limit=Decimal("99.50"), target="payments/refund", argument="amount"
        ),
        AmountLimit(name="usd", limit=Decimal("99.50"), target="payments/credit", argument="sum"),
    )


BAD = {
    "not TOML": b"purpose = ",
    "not text": b"\xff\xfe",
    "no purpose": GOOD.replace(b'purpose = "Refund customers"', b""),
    "an empty purpose": GOOD.replace(b"Refund customers", b" "),
    "an unknown key": b"budgets = {}\n" + GOOD,
    "an unknown key of a capability": GOOD + b"arg = {}\n",
    "an unknown key of the budget": GOOD + b"[budget]\ncall = 3\n",
    "no capability": b'purpose = "x"\n',
    "an empty list of capabilities": b'purpose = "x"\ncapability = []\n',
    "a capability that is no table": b'purpose = "x"\ncapability = ["a/b"]\n',
    "a capability without a target": b'purpose = "x"\n[[capability]]\nargs = {}\n',
    "a capability with two targets": GOOD + b'resource = "files/x"\n',
    "a target without an upstream": GOOD.replace(b"payments/refund", b"refund"),
    "a target without a name": GOOD.replace(b"payments/refund", b"payments/"),
    "a tool with a star": GOOD.replace(b"payments/refund", b"payments/*"),
    "a target with a control character": GOOD.replace(b"payments/refund", b"payments/re\\u0007"),
    "a target with a bidirectional override": GOOD.replace(b"payments/refund", b"payments/\\u202e"),
    "a resource with a star in its host": b'purpose = "x"\n[[capability]]\nresource = "w/https://a*"\n',
    "a resource with a star in its scheme": b'purpose = "x"\n[[capability]]\nresource = "w/htt*"\n',
    "a resource with a star in the middle": b'purpose = "x"\n[[capability]]\nresource = "w/file:///*/a"\n',
    "a resource with arguments": b'purpose = "x"\n[[capability]]\nresource = "w/file:///a"\nother_args = true\n',
    "a schema that is no schema": GOOD.replace(b'{ type = "number" }', b'"number"'),
    "a schema of no type": GOOD.replace(b'"number"', b'"decimal"'),
    "a schema with a bad pattern": GOOD.replace(b'type = "number"', b'pattern = "("'),
    "a schema with look-around": GOOD.replace(b'type = "number"', b'pattern = "(?=a)b"'),
    "a schema with an unknown format": GOOD.replace(b'type = "number"', b'format = "mail"'),
    "a schema from the network": GOOD.replace(
        b'type = "number"', b'"$ref" = "http://127.0.0.1:1/schema"'
    ),
    "a schema from a file": GOOD.replace(b'type = "number"', b'"$ref" = "file:///etc/hostname"'),
    "a schema of another dialect": GOOD.replace(
        b'type = "number"', b'"$schema" = "http://json-schema.org/draft-07/schema#"'
    ),
    "a schema with a date": GOOD.replace(b'type = "number"', b"const = 2026-01-01"),
    "a schema that is too large": GOOD.replace(
        b'"number"', b'"number", title = "' + b"x" * 20_000 + b'"'
    ),
    "a deep schema": GOOD.replace(b'{ type = "number" }', b"{ not = " * 40 + b"{}" + b" }" * 40),
    "no environment": b"environments = []\n" + GOOD,
    "an unknown environment": b'environments = ["production"]\n' + GOOD,
    "environments that are no list": b'environments = "dev"\n' + GOOD,
    "an unknown ceiling": b'data_ceiling = "secret"\n' + GOOD,
    "an egress that is a URL": b'egress = ["https://corp.example"]\n' + GOOD,
    "an egress in capitals": b'egress = ["Corp.example"]\n' + GOOD,
    "an expiry of zero": b"expires_seconds = 0\n" + GOOD,
    "an expiry that is a boolean": b"expires_seconds = true\n" + GOOD,
    "an expiry of years": b"expires_seconds = 99999999\n" + GOOD,
    "negative calls": GOOD + b"[budget]\ncalls = -1\n",
    "fractional calls": GOOD + b"[budget]\ncalls = 1.5\n",
    "endless seconds": GOOD + b"[budget]\nseconds = inf\n",
    "seconds that are no number": GOOD + b"[budget]\nseconds = nan\n",
    "an amount that counts nothing": GOOD + b"[budget.amount]\nusd = 3\n",
    "an amount with no argument": GOOD
    + b'[budget.amount.usd]\nlimit = 3\ntool = "payments/refund"\n',
    "an amount with no limit": GOOD
    + b'[budget.amount.usd]\ntool = "payments/refund"\nargument = "amount"\n',
    "a negative amount": GOOD
    + b'[budget.amount.usd]\nlimit = -3\ntool = "payments/refund"\nargument = "amount"\n',
    "an amount of a tool that is not here": GOOD
    + b'[budget.amount.usd]\nlimit = 3\ntool = "payments/pay"\nargument = "amount"\n',
    "an amount with no source": GOOD + b"[budget.amount.usd]\nlimit = 3\nfrom = []\n",
    "an approval that is no name": GOOD + b'approval = "the manager"\n',
    "a flag that is a number": GOOD + b"other_args = 1\n",
}


@pytest.mark.parametrize("wrong", BAD)
def test_a_template_is_refused_for(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"^templates/a\.toml: ") as refusal:
        parse_template("templates/a.toml", BAD[wrong])

    assert "\n" not in str(refusal.value)


def test_a_misspelt_key_is_refused_with_its_path_and_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"`capability\[0\]\.arg` is not a key here.*`args`"):
        parse_template("a.toml", GOOD + b"arg = {}\n")


def test_two_templates_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"is taken by templates/a\.toml"):
        parse_templates({"templates/a.toml": GOOD, "templates/b/a.toml": GOOD})


def test_a_template_may_refer_within_its_own_schema() -> None:
    text = GOOD.replace(
        b'{ type = "number" }', b'{ "$ref" = "#/$defs/n", "$defs" = { n = { type = "number" } } }'
    )

    assert parse_template("a.toml", text).capabilities[0].args


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"template": 3},
        {"template": "a", "templates": "b"},
        {"template": "a", "prompt": 3},
        {"template": "a", "prompt": "x" * 300_000},
        {"template": "a", "prompt": "\ud800"},
        {"template": "a", "on_behalf_of": "ann\nbob"},
        {"template": "a", "on_behalf_of": ""},
        {"template": "a", "purpose": "refund\nowner: root"},
        {"template": "a", "purpose": "refund\x1b[2J"},
        {"template": "a", "prompt": "please\x1b]0;x\x07"},
        {"template": "a", "budget": 5},
        {"template": "a", "budget": {"calls": True}},
        {"template": "a", "budget": {"calls": "5"}},
        {"template": "a", "budget": {"amount": {"usd": "1e3"}}},
        {"template": "a", "budget": {"amount": {"usd": -1}}},
        {"template": "a", "capability": {"tool": "a/b"}},
        {"template": "a", "capability": [{"tool": "a/b"}] * 201},
        {"template": "a", "capability": [{"tool": "a/b", "args": {"x": {"$ref": "#"}}}]},
        {"template": "a", "capability": [{"tool": "a/b", "args": {"x": {"$defs": {}}}}]},
        {"template": "a", "capability": [{"tool": "a/b", "args": {"x": {"const": float("nan")}}}]},
        {"template": "a", "confirmation": "jkt"},
        {"template": "a", "expires_seconds": 1.5},
    ],
)
def test_a_request_is_refused_when_malformed(keys: dict[str, object]) -> None:
    with pytest.raises(InputError):
        TaskRequest.parse(keys)


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (0, "0"),
        (12, "12"),
        (12.5, "12.5"),
        (1e-7, "0.0000001"),
        ("12.50", "12.50"),
        ("0.1", "0.1"),
    ],
)
def test_a_number_or_numeric_string_is_an_amount(value: object, amount: str) -> None:
    assert parse_amount(value) == Decimal(amount)


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, None, -1, -0.01, -0.0, float("nan"), float("inf"), 1e300, 1e-30, 10**18),
        *("", "-1", "+1", " 1", "1 ", "1_0", "1e3", "0x1", "007", ".5", "5.", "1,5", "NaN"),
        *("٣", "\uff11", "1\n", "9" * 60, [], {}, [1]),
    ],
)
def test_anything_else_is_not_an_amount(value: object) -> None:
    assert parse_amount(value) is None
