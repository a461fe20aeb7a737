"""What docs/mandates.md shows is what the code reads."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from remit.tasks.request import TaskRequest
from remit.tasks.templates import parse_template

if TYPE_CHECKING:
    from conftest import House

PAGE = (Path(__file__).parents[3] / "docs" / "mandates.md").read_text(encoding="utf-8")


def block(word: str) -> str:
    (found,) = re.findall(rf"```toml {word}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


async def test_the_pages_request_opens_a_task_under_the_pages_template(house: House) -> None:
    template = parse_template("templates/support.refund.toml", block("template").encode())
    house.desk.replace_templates({template.name: template})
    request = TaskRequest.parse({**tomllib.loads(block("request")), "template": "support.refund"})

    opened = await house.desk.open(request, agent=house.agent, opened_by="user:bob@corp.example")

    refund = house.call("payments/refund", {"order": "1234", "amount": 40})
    found = house.desk.measure(opened.task, refund)
    assert found.violations == ()
    assert found.approval_role == "manager"
    (usd,) = opened.task.mandate.budget.amounts
    assert usd.limit == Decimal(40)
    too_much = replace(refund, arguments={"order": "1234", "amount": 41})
    assert house.desk.measure(opened.task, too_much).violations


def test_the_pages_sentence_is_the_one_that_agents_read(house: House) -> None:
    assert "argument `amount` may be at most 100" in PAGE


def test_the_pages_budget_is_read() -> None:
    text = (
        'purpose = "p"\n'
        + block("budget")
        + "".join(
            f'[[capability]]\ntool = "payments/{tool}"\nother_args = true\n'
            for tool in ("refund", "credit")
        )
    )

    assert len(parse_template("a.toml", text.encode()).budget.amounts) == 2


def test_every_key_is_on_the_page() -> None:
    for word in (
        *("purpose", "name", "environments", "data_ceiling", "egress", "expires_seconds"),
        *("calls", "seconds", "tool", "resource", "prompt", "args", "other_args", "approval"),
        *("template", "on_behalf_of", "confirmation"),
    ):
        assert re.search(rf"`{word}`", PAGE), word
