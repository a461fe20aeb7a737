"""Parses one statement, and refuses what is made of anything that `vocabulary` does not list."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from sqlglot import ErrorLevel, exp, parse
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType
from sqlglot.tokens import Tokenizer

from remit.gateway.sql.vocabulary import FUNCTIONS, NODES, TYPES, WORDS
from remit.model.errors import InputError

MAX_BYTES = 16_384
MAX_NESTING = 24
MAX_TOKENS = 1_200
WRITTEN_OUT = 8
"""How many times larger a statement may be when it is written out in full."""
DIALECT = "postgres"

_CALLED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\(|\Z)")
_WRITING = (exp.Insert, exp.Update, exp.Delete)
# It warns of what it does not understand, with the statement's text.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)


def parsed(statement: str, *, times: int = 1) -> exp.Expr:
    """Return the one statement of a text, which may be ``times`` as large as a caller's.

    Raises:
        InputError: it is none, more than one, too large, or nested too deep.
    """
    if len(statement.encode(errors="surrogatepass")) > times * MAX_BYTES:
        raise InputError(f"a statement holds at most {MAX_BYTES} bytes")
    if "\x00" in statement:
        raise InputError("a statement holds no null character")
    try:
        _require_shallow(Tokenizer(dialect=DIALECT).tokenize(statement), times)
        trees = [t for t in parse(statement, dialect=DIALECT, error_level=ErrorLevel.RAISE) if t]
    except (SqlglotError, RecursionError) as error:
        raise InputError("the statement cannot be read as sql: write it more plainly") from error
    if len(trees) != 1:
        raise InputError(f"one statement is run at a time, not {len(trees)}")
    return trees[0]


def _require_shallow(tokens: Sequence[Token], times: int) -> None:
    if len(tokens) > times * MAX_TOKENS:
        raise InputError(f"a statement holds at most {MAX_TOKENS} words")
    depth = 0
    for token in tokens:
        if token.token_type in {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}:
            depth += 1
            if depth > times * MAX_NESTING:
                raise InputError(f"a statement is nested at most {MAX_NESTING} deep")
        elif token.token_type in {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}:
            depth -= 1


def require_vocabulary(tree: exp.Expr) -> None:
    """Refuse a statement with a part that is not listed.

    Raises:
        InputError: it names the part.
    """
    for node in tree.walk():
        kind = type(node)
        if isinstance(node, exp.Func) and kind not in NODES:
            name = _function(node)
            if name not in FUNCTIONS:
                raise InputError(f"function {shown(name)} is not one that may be called here")
        elif kind not in NODES:
            raise InputError(f"{_words(kind)} is not understood here")
        _require_plain(node)
        if isinstance(node, _WRITING) and node is not tree:
            raise InputError("a statement that writes stands alone, not within another")


_CLAUSES: Mapping[type[exp.Expr], tuple[str, frozenset[str]]] = {
    exp.Table: ("a table", frozenset({"this", "db", "alias", "only", "joins"})),
    exp.Select: (
        "a select",
        frozenset(
            {"expressions", "from_", "joins", "where", "group", "having", "order", "limit"}
            | {"offset", "distinct", "with_"}
        ),
    ),
    exp.Join: ("a join", frozenset({"this", "side", "kind", "on", "using", "method"})),
    exp.With: ("a `with`", frozenset({"expressions"})),
    exp.CTE: ("a `with`", frozenset({"this", "alias"})),
    exp.Star: ("`*`", frozenset()),
    exp.Subquery: ("a subquery", frozenset({"this", "alias", "joins", "order", "limit", "offset"})),
    exp.Insert: ("an insert", frozenset({"this", "expression", "returning"})),
    exp.Update: ("an update", frozenset({"this", "expressions", "where", "returning"})),
    exp.Delete: ("a delete", frozenset({"this", "where", "returning"})),
    exp.Returning: ("returning", frozenset({"expressions"})),
    exp.Distinct: ("distinct", frozenset({"expressions", "on"})),
    exp.Group: ("a group", frozenset({"expressions"})),
    exp.Limit: ("a limit", frozenset({"expression"})),
}
"""The clauses of each form that are understood: no locks, `into`, sampling or `on conflict`."""


def _require_plain(node: exp.Expr) -> None:
    """Refuse what a listed node can carry besides what it is listed for."""
    form = _CLAUSES.get(type(node))
    if form is not None:
        what, known = form
        for key, value in node.args.items():
            if value and key not in known:
                clause = key.strip("_").replace("_", " ")
                raise InputError(f"{what} with `{clause}` is not understood here")
    if isinstance(node, exp.DataType):
        _require_plain_type(node)
    elif isinstance(node, exp.Table):
        _require_plain_table(node)
    elif isinstance(node, exp.Join) and str(node.args.get("method") or "").upper() == "NATURAL":
        raise InputError("a natural join hides what it compares: say `using` or `on`")


def _require_plain_type(node: exp.DataType) -> None:
    kind = node.this
    if not isinstance(kind, exp.DType) or kind.value not in TYPES:
        raise InputError("a cast is to a plain type of numbers, text, time or json")


def _require_plain_table(node: exp.Table) -> None:
    if not isinstance(node.this, exp.Identifier):
        raise InputError("a table is named by its schema and its name, and nothing else")
    alias = node.args.get("alias")
    if isinstance(alias, exp.TableAlias) and alias.args.get("columns"):
        raise InputError("a table's columns keep their names: rename them in the select")


def _function(node: exp.Func) -> str:
    """Return the name that PostgreSQL will be given."""
    if isinstance(node, exp.Anonymous):
        name = node.this
        return str(name.name if isinstance(name, exp.Expr) else name).lower()
    found = _CALLED.match(node.sql(dialect=DIALECT))
    return found[1].lower() if found else type(node).__name__.lower()


def functions(tree: exp.Expr) -> set[str]:
    """Return the functions that are called, by the names that PostgreSQL knows them by."""
    return {_function(f) for f in tree.find_all(exp.Func) if type(f) not in NODES}


def parameters(tree: exp.Expr) -> int:
    """Return how many parameters a statement takes.

    Raises:
        InputError: they are not `$1`, `$2`, and so on.
    """
    numbers = set()
    for each in tree.find_all(exp.Parameter):
        text = str(each.this)
        if not text.isdigit():
            raise InputError("a parameter is `$1`, `$2`, and so on")
        numbers.add(int(text))
    if numbers and numbers != set(range(1, len(numbers) + 1)):
        raise InputError("parameters are numbered from `$1` without a gap")
    return len(numbers)


def require_same(text: str, tree: exp.Expr) -> None:
    """Read what will run once more: it has to mean the same, and call nothing that is not listed."""
    again = parsed(text, times=WRITTEN_OUT)
    if again.sql(dialect=DIALECT, comments=False, identify=True) != text or type(again) is not type(
        tree
    ):
        raise InputError("the statement reads in two ways: write it more plainly")
    require_vocabulary(again)
    tokens = Tokenizer(dialect=DIALECT).tokenize(text)
    for before, token in pairwise(tokens):
        word = before.text.lower().rpartition(" ")[2]
        if (
            token.token_type is TokenType.L_PAREN
            and before.token_type not in {TokenType.IDENTIFIER, TokenType.STRING, TokenType.NUMBER}
            and word[:1].isalpha()
            and word not in FUNCTIONS
            and word not in WORDS
        ):
            raise InputError(f"{shown(word)} is not understood here")


def name(identifier: exp.Expr) -> str:
    """Return a name as PostgreSQL folds it."""
    if not isinstance(identifier, exp.Identifier):
        raise InputError("a name is expected where something else stands")
    return identifier.name if identifier.quoted else identifier.name.lower()


def shown(name: str) -> str:
    """Return a name of the caller's in backticks, escaped and cut short."""
    text = name.encode("unicode_escape").decode().replace("`", "'")
    return f"`{text[:80]}`"


def _words(kind: type[exp.Expr]) -> str:
    return f"`{kind.__name__.lower()}`"
