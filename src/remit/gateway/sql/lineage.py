"""Reads one SQL statement into the tables and columns that it touches, or refuses it.

What is refused: what cannot be parsed, more than one statement, anything that `vocabulary` does
not list, tables and columns that the connection's catalogue does not, and every form in which a
column could be read without being named. What is left is written out anew, each name in full and
in quotes, and *that* text is what runs: what was read and what runs cannot differ by a search
path, a comment or a `*`. The server's privileges hold it all the same: this reading exists so that
policy can decide and evidence can tell, not so that a role may be granted more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope
from sqlglot.schema import MappingSchema

from remit.gateway.sql.grammar import (
    DIALECT,
    functions,
    name,
    parameters,
    parsed,
    require_same,
    require_vocabulary,
    shown,
)
from remit.model.errors import InputError

Kind = Literal["select", "insert", "update", "delete"]
Columns = Mapping[str, Sequence[str]]
_ROOTS: tuple[tuple[type[exp.Expr], Kind], ...] = (
    (exp.Query, "select"),
    (exp.Insert, "insert"),
    (exp.Update, "update"),
    (exp.Delete, "delete"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a statement touches.

    ``tables`` are `schema.table`, ``reads`` and ``writes`` `schema.table.column`, sorted; a column
    that is compared, joined or ordered by is read. ``text`` is what runs.
    """

    kind: Kind
    tables: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    functions: tuple[str, ...]
    parameters: int
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The tables that a connection has, by `schema.table`, each with its columns in order."""

    tables: Columns
    default_schema: str = "public"

    def schema(self) -> MappingSchema:
        """Return the catalogue as sqlglot reads it."""
        nested: dict[str, Any] = {}
        for full, columns in self.tables.items():
            schema, _, table = full.partition(".")
            nested.setdefault(schema, {})[table] = dict.fromkeys(columns, "text")
        return MappingSchema(nested, dialect=DIALECT, normalize=False)


def read(statement: str, catalogue: Catalogue) -> Lineage:
    """Read one statement.

    Raises:
        InputError: it is refused; the sentence names what, and never a value.
    """
    tree = parsed(statement)
    kind = next((kind for root, kind in _ROOTS if isinstance(tree, root)), None)
    if kind is None:
        raise InputError("only select, insert, update and delete are run here")
    require_vocabulary(tree)
    try:
        whole, writes = _qualified(tree, catalogue)
        reads = _reads(whole.reading, catalogue)
        text = whole.statement.sql(dialect=DIALECT, comments=False, identify=True)
    except (SqlglotError, RecursionError, ValueError, KeyError) as error:
        raise InputError(
            "the statement names a column that is not there, or not clearly one table's: "
            "put the table's name before each column"
        ) from error
    require_vocabulary(whole.statement)  # names in full can be of another kind: a row, a field
    for star in whole.statement.find_all(exp.Star):
        if not isinstance(star.parent, exp.Count):
            raise InputError("`*` stands for columns that are not known here: name them")
    require_same(text, whole.statement)
    tables = {_full(table) for table in _tables(whole)}
    return Lineage(
        kind=kind,
        tables=tuple(sorted(tables)),
        reads=tuple(sorted(reads)),
        writes=tuple(sorted(writes)),
        functions=tuple(sorted(functions(whole.statement))),
        parameters=parameters(whole.statement),
        text=text,
    )


@dataclass(frozen=True, slots=True)
class _Whole:
    """A statement with every name in full, and the query that reads what it reads, if any."""

    statement: exp.Expr
    reading: exp.Query | None
    target: exp.Table | None = None


def _qualified(tree: exp.Expr, catalogue: Catalogue) -> tuple[_Whole, set[str]]:
    """Return the statement with every name in full, and the columns that it writes."""
    if isinstance(tree, exp.Query):
        full = _qualify(tree, catalogue)
        return _Whole(full, full), set()
    if isinstance(tree, exp.Insert):
        return _insert(tree, catalogue)
    return _change(tree, catalogue)


def _qualify(query: exp.Query, catalogue: Catalogue) -> exp.Query:
    full = qualify(
        query.copy(),
        dialect=DIALECT,
        db=catalogue.default_schema,
        schema=catalogue.schema(),
        validate_qualify_columns=True,
        identify=True,
    )
    if not isinstance(full, exp.Query):
        raise InputError("the statement cannot be read as a query")
    return full


def _target(tree: exp.Expr, catalogue: Catalogue) -> exp.Table:
    table = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    if not isinstance(table, exp.Table):
        raise InputError("one table is written at a time")
    _known(table, catalogue)
    return table


def _insert(tree: exp.Insert, catalogue: Catalogue) -> tuple[_Whole, set[str]]:
    target = _target(tree, catalogue)
    if not isinstance(tree.this, exp.Schema) or not tree.this.expressions:
        raise InputError("an insert names the columns that it fills")
    writes = {_written(target, column, catalogue) for column in tree.this.expressions}
    source, returning = tree.expression, _returned(tree)
    if isinstance(source, exp.Values):
        if source.find(exp.Column, exp.Query, exp.Star):
            raise InputError("values are values: insert what a query finds with `insert … select`")
        queries: list[exp.Query] = []
    elif isinstance(source, exp.Query):
        queries = [_qualify(source, catalogue)]
    else:
        raise InputError("an insert takes values or a select")
    statement = tree.copy()
    if queries:
        statement.set("expression", queries[0].copy())
    place = statement.find(exp.Table)
    assert place is not None  # noqa: S101 - the target, which was found above
    _put_target(place, target, catalogue)
    if returning:
        seen = _qualify(exp.Select(expressions=returning).from_(target.copy()), catalogue)
        statement.set("returning", exp.Returning(expressions=_copies(seen.expressions)))
        queries.append(seen)
    reading = _together(queries)
    return _Whole(statement, reading, target), writes


def _change(tree: exp.Expr, catalogue: Catalogue) -> tuple[_Whole, set[str]]:
    """An update or a delete: what it reads is what a select of its parts would read."""
    target = _target(tree, catalogue)
    sets = tree.expressions if isinstance(tree, exp.Update) else []
    writes = set[str]()
    values: list[exp.Expr] = []
    for each in sets:
        if not isinstance(each, exp.EQ) or not isinstance(each.this, exp.Column):
            raise InputError("an update sets one column to one value at a time")
        writes.add(_written(target, each.this.this, catalogue))
        place = exp.to_identifier(f"_set_{len(values)}", quoted=True)
        values.append(exp.Alias(this=each.expression.copy(), alias=place))
    returning = _returned(tree)
    selected = [*values, *returning] or [exp.Literal.number(1)]
    select = exp.Select(expressions=selected).from_(target.copy())
    where = tree.args.get("where")
    if where is not None:
        select.set("where", where.copy())
    seen = _qualify(select, catalogue)
    statement = tree.copy()
    _put_target(statement.this, target, catalogue)
    if sets:
        full = [
            exp.EQ(
                this=exp.column(each.this.this.copy(), quoted=True),
                expression=value.unalias().copy(),
            )
            for each, value in zip(sets, seen.expressions, strict=False)
        ]
        statement.set("expressions", full)
    if where is not None:
        statement.set("where", seen.args["where"].copy())
    if returning:
        statement.set(
            "returning", exp.Returning(expressions=_copies(seen.expressions[len(sets) :]))
        )
    return _Whole(statement, seen, target), writes


def _together(queries: Sequence[exp.Query]) -> exp.Query | None:
    """Return one query that holds them all, to be looked through; it never runs."""
    if len(queries) < 2:  # noqa: PLR2004 - two are needed to be put together
        return queries[0] if queries else None
    both = [
        exp.Subquery(this=q.copy(), alias=exp.to_identifier(f"_{n}")) for n, q in enumerate(queries)
    ]
    return (
        exp.Select(expressions=[exp.Literal.number(1)])
        .from_(both[0])
        .join(both[1], join_type="cross")
    )


def _returned(tree: exp.Expr) -> list[exp.Expr]:
    returning = tree.args.get("returning")
    return [] if returning is None else _copies(returning.expressions)


def _copies(nodes: Sequence[exp.Expr]) -> list[exp.Expr]:
    return [node.copy() for node in nodes]


def _put_target(place: exp.Table, target: exp.Table, catalogue: Catalogue) -> None:
    """Write the target in full, by the name that the qualified parts call it."""
    schema = target.db or catalogue.default_schema
    alias = target.alias or target.name
    place.set("db", exp.to_identifier(schema, quoted=True))
    place.set("this", exp.to_identifier(target.name, quoted=True))
    place.set("alias", exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))


def _written(target: exp.Table, column: exp.Expr, catalogue: Catalogue) -> str:
    full = _known(target, catalogue)
    written = name(column)
    if written not in catalogue.tables[full]:
        raise InputError(f"column {shown(written)} is not one of {shown(full)} here")
    return f"{full}.{written}"


def _known(table: exp.Table, catalogue: Catalogue) -> str:
    schema = table.args.get("db")
    full = f"{name(schema) if schema else catalogue.default_schema}.{name(table.this)}"
    if full not in catalogue.tables:
        raise InputError(f"table {shown(full)} is not one of this connection")
    return full


def _full(table: exp.Table) -> str:
    return f"{table.db}.{table.name}"


def _tables(whole: _Whole) -> Iterator[exp.Table]:
    """Yield every real table: after qualification only a reference to a query has no schema."""
    for table in whole.statement.find_all(exp.Table):
        if table.db:
            yield table


def _reads(query: exp.Query | None, catalogue: Catalogue) -> set[str]:
    """Return the columns that are read, each of a table of the catalogue."""
    if query is None:
        return set()
    found: set[str] = set()
    placed: set[int] = set()
    for scope in traverse_scope(query):
        for source in scope.sources.values():
            if isinstance(source, exp.Table):
                _known(source, catalogue)
        for column in scope.columns:
            placed.add(id(column))
            found |= _read(column, scope, catalogue)
    for column in query.find_all(exp.Column):
        if id(column) not in placed and not _orders_by_output(column):
            raise InputError(
                f"column {shown(column.name)} cannot be told whose it is: name its table"
            )
    return found


def _read(column: exp.Column, scope: Scope, catalogue: Catalogue) -> set[str]:
    if not column.table:
        if _orders_by_output(column):
            return set()
        raise InputError(f"column {shown(column.name)} needs its table's name before it")
    around: Scope | None = scope
    while around is not None and column.table not in around.sources:
        around = around.parent
    if around is None:
        raise InputError(f"column {shown(column.name)} is of no table of the statement")
    source = around.sources[column.table]
    if not isinstance(source, exp.Table):
        return set()  # of a query within, whose own columns are read there
    full = _known(source, catalogue)
    if column.name not in catalogue.tables[full]:
        raise InputError(f"column {shown(column.name)} is not one of {shown(full)} here")
    return {f"{full}.{column.name}"}


def _orders_by_output(column: exp.Column) -> bool:
    """Whether it is the name of an output column, where PostgreSQL takes such a name first."""
    above = column.parent
    ordered = isinstance(above, exp.Ordered)
    distinct = isinstance(above, exp.Tuple) and isinstance(above.parent, exp.Distinct)
    around: exp.Expr | None = column.parent_select
    if isinstance(above, exp.Ordered):
        around = above.parent.parent if isinstance(above.parent, exp.Order) else None
    outputs = around.named_selects if isinstance(around, exp.Query) else []
    bare = not column.table and (ordered or distinct)
    return bare and column.name in outputs
