from __future__ import annotations

import pytest

from remit.model.errors import ConfigError
from remit.policy import cedar, schema


def _normal(text: str) -> str:
    return "".join(str(cedar.schema(text)).split())


def test_our_reading_of_the_schema_is_cedars():
    """Inlined by us and inlined by Cedar, the facts are the same type."""
    ours = schema.projected(schema.builtin_text(), frozenset({()}))
    facts = _normal(ours).partition("typeFacts=")[2].partition(";")[0]
    theirs = _normal(schema.builtin_text())
    body = theirs.partition("typeFacts=")[2].partition(";")[0]
    for _ in range(3):
        for name in schema.types(schema.builtin_text()):
            inner = theirs.partition(f"type{name}=")[2].partition(";")[0]
            body = body.replace(f":{name},", f":{inner},").replace(f":{name}}}", f":{inner}}}")
    assert facts == body


def test_every_fact_has_a_meaning():
    for declared in schema.declarations(schema.builtin_text()):
        assert declared.meaning, declared.name
        for attribute in declared.attributes:
            assert attribute.meaning, f"{declared.name}.{attribute.name}"


def test_a_cut_keeps_what_is_read_and_what_is_below_it():
    cut = schema.projected(schema.builtin_text(), frozenset({("tool", "label"), ("task", "id")}))
    line = cut.splitlines()[-1]
    assert '"label": {"confidentiality": Long, "trusted": Bool, "categories": Set<String>}' in line
    assert '"task": {"id": String}' in line
    assert "subject" not in line
    cedar.schema(cut)


def test_a_line_out_of_layout_is_told_by_its_number():
    with pytest.raises(ConfigError, match="line 2"):
        schema.declarations("entity Agent;\nentity A, B;\n")
