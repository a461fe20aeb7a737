from __future__ import annotations

import pytest

from remit.model.errors import ConfigError
from remit.policy.bundle import Bundle
from remit.policy.cases import run


def _file(text: str) -> dict[str, bytes]:
    return {"cases/a.yaml": text.encode()}


def test_a_case_that_comes_out_otherwise_is_told_with_both_answers(shipped: Bundle):
    report = run(
        shipped,
        _file("- {case: it is refused, expect: {effect: deny, policies: [outside_mandate]}}"),
    )
    assert not report.ok
    assert str(report.failures[0]) == (
        "cases/a.yaml: it is refused: wanted deny by outside_mandate, got permit by within_mandate"
    )
    assert report.coverage().startswith(
        "1 of 16 policies exercised; no case exercises agent_not_active"
    )


def test_no_cases_are_no_success(shipped: Bundle):
    assert not run(shipped, {}).ok
    assert not run(shipped, _file("[]")).ok


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "a: 1",
        "- {case: x}",
        "- {case: x, expect: {effect: maybe}}",
        "- {case: x, expect: {effect: deny}, unknown: 1}",
        "- {case: x, given: {mandate: {in_manadte: true}}, expect: {effect: deny}}",
        "- {case: x, given: {tool: {label: {secret: 1}}}, expect: {effect: deny}}",
        "- {case: x, given: {arguments: {x: .nan}}, expect: {effect: deny}}",
        "- !!python/object/apply:os.system [echo]",
    ],
)
def test_a_file_that_is_not_cases_is_refused(shipped: Bundle, text: str):
    with pytest.raises(ConfigError):
        run(shipped, _file(text))


def test_a_fact_of_the_wrong_type_is_no_permit(shipped: Bundle):
    text = "- {case: x, given: {subject: {autonomy: high}}, expect: {effect: permit, policies: [within_mandate]}}"
    report = run(shipped, _file(text))
    assert "remit.no_answer" in report.failures[0].got
