"""Statements read into what they touch; whatever hides something is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_cases import READ, REFUSED, TABLES, Case

from remit.gateway.sql.lineage import Catalogue, read
from remit.model.errors import InputError

WORDS = (
    *("select", "id", "name", "card", "from", "customer", "invoice", "c", "i", "where", ",", "."),
    *("(", ")", "*", "=", "'x'", "$1", "as", "join", "on", "and", "union", "with", "delete"),
    *("returning", "insert", "into", "values", "update", "set", "order", "by", "group", "null"),
    *(";", "--", "/*", "*/", "::", "text", "count", "pg_sleep"),
)
CRM = Catalogue(TABLES, "crm")


@pytest.mark.parametrize("case", READ, ids=lambda case: case.sql)
def test_what_a_statement_touches_is_told_whole(case: Case):
    found = read(case.sql, CRM)
    assert found.reads == Case.full(case.reads)
    assert found.writes == Case.full(case.writes)
    columns = {*found.reads, *found.writes}
    assert {column.rpartition(".")[0] for column in columns} <= set(found.tables)
    assert found.parameters == len(case.parameters)


@pytest.mark.parametrize("case", READ, ids=lambda case: case.sql)
def test_what_runs_reads_as_the_same(case: Case):
    found = read(case.sql, CRM)
    again = read(found.text, CRM)
    assert (again.text, again.reads, again.writes) == (found.text, found.reads, found.writes)
    assert "--" not in found.text.replace("-- not a comment", "")
    assert "/*" not in found.text


@pytest.mark.parametrize("statement", REFUSED)
def test_what_hides_something_is_refused_in_one_line(statement: str):
    with pytest.raises(InputError) as caught:
        read(statement, CRM)
    text = str(caught.value)
    assert "\n" not in text
    assert text[:1].islower() or text[:1] == "`"


def test_a_refusal_repeats_no_value():
    for statement in ("select pg_read_file('hunter2')", "select * from nope where x = 'hunter2'",
                      "select 'hunter2' from customer for update", "select 'hunter2' ((("):  # fmt: skip
        with pytest.raises(InputError) as caught:
            read(statement, CRM)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "select " + "(" * 5000 + "1" + ")" * 5000,
        "select " + "case when true then " * 60 + "1" + " end" * 60,
        "select " + "array[" * 60 + "1" + "]" * 60,
        "select " + "- " * 3000 + "1",
        "select " + "not " * 3000 + "true",
        "select 1" + " union select 1" * 1500,
        "select " + "1 + " * 3000 + "1",
        "select * from " + "(select * from " * 23 + "customer" + ") x" * 23,
        "select '" + "x" * 20_000 + "'",
        "select '" + "\ud800" * 3 + "'",
        "select " + ",".join("id" for _ in range(3000)) + " from customer",
    ],
    ids=lambda statement: statement[:24],
)
def test_size_and_depth_end_in_an_answer(statement: str):
    with contextlib.suppress(InputError):
        read(statement, CRM)


def test_no_column_of_a_table_that_the_catalogue_has_empty_can_be_read():
    bare = Catalogue({"crm.customer": ()}, "crm")
    for statement in ("select id from customer", "select * from customer"):
        with pytest.raises(InputError):
            read(statement, bare)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(WORDS),
        max_size=25,
    )
)
def test_any_words_end_in_a_lineage_or_a_refusal_and_never_beyond_the_catalogue(words: list[str]):
    try:
        found = read(" ".join(words), CRM)
    except InputError:
        return
    assert set(found.tables) <= set(TABLES)
    assert "pg_sleep" not in found.functions
