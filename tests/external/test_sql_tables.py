"""Other people's statements (sql-metadata's): the tables that are told are those they expect.

They are of every dialect, and name no catalogue; what of them is PostgreSQL's is read with a
catalogue of the tables they expect, and the columns that they name. The rest has to be refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from external import cases

from remit.gateway.sql.lineage import Catalogue, read
from remit.model.errors import InputError

LEAST = 20
"""How many of them are read at all, at the least: fewer, and nothing is shown."""


def folded(name: str) -> str:
    """Return a table as PostgreSQL folds it, with the default schema where none is named."""
    return (name if "." in name else f"public.{name}").lower()


def catalogue(statement: str, tables: list[str]) -> Catalogue:
    """Return a catalogue in which every word of the statement is a column of each table."""
    words = tuple(dict.fromkeys(word.lower() for word in re.findall(r"\w+", statement)))
    return Catalogue({folded(table): words for table in tables}, "public")


def test_the_tables_told_are_those_expected_or_the_statement_is_refused():
    told: Counter[str] = Counter()
    for case in json.loads(cases("sql/sql_metadata_tables.json").read_text()):
        statement, tables = case["sql"], case["tables"]
        try:
            found = read(statement, catalogue(statement, tables))
        except InputError:
            told["refused"] += 1
            continue
        assert set(found.tables) == {folded(table) for table in tables}, statement
        told["read"] += 1
    assert told["read"] >= LEAST, told


def test_a_table_that_is_left_out_of_the_catalogue_is_never_read():
    for case in json.loads(cases("sql/sql_metadata_tables.json").read_text()):
        for hidden in case["tables"]:
            rest = [table for table in case["tables"] if folded(table) != folded(hidden)]
            try:
                found = read(case["sql"], catalogue(case["sql"], rest))
            except InputError:
                continue
            raise AssertionError((hidden, case["sql"], found.tables))
