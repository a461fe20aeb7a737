"""The helpdesk's data, in one SQLite file.

Every call opens its own connection and is one transaction: a refused refund changes nothing, and
several processes may use one file. Money is kept in cents.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from seed import CUSTOMERS, MESSAGES, ORDERS, TICKETS

_WAIT_SECONDS = 10.0
_VERSION = 1
_SCHEMA = """
CREATE TABLE customer (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, plan TEXT NOT NULL,
  since TEXT NOT NULL
) STRICT;
CREATE TABLE purchase (
  id TEXT PRIMARY KEY, customer TEXT NOT NULL REFERENCES customer (id), item TEXT NOT NULL,
  cents INTEGER NOT NULL CHECK (cents > 0), state TEXT NOT NULL, placed_on TEXT NOT NULL
) STRICT;
CREATE TABLE ticket (
  id TEXT PRIMARY KEY, customer TEXT NOT NULL REFERENCES customer (id), subject TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'closed')), opened_at TEXT NOT NULL
) STRICT;
CREATE TABLE message (
  id INTEGER PRIMARY KEY, ticket TEXT NOT NULL REFERENCES ticket (id), author TEXT NOT NULL,
  body TEXT NOT NULL
) STRICT;
CREATE TABLE reply (
  id INTEGER PRIMARY KEY, ticket TEXT NOT NULL REFERENCES ticket (id), body TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('draft', 'sent')), drafted_at TEXT NOT NULL, sent_at TEXT
) STRICT;
CREATE TABLE refund (
  id INTEGER PRIMARY KEY, purchase TEXT NOT NULL REFERENCES purchase (id),
  cents INTEGER NOT NULL CHECK (cents > 0), reason TEXT NOT NULL, refunded_at TEXT NOT NULL
) STRICT;
CREATE INDEX ticket_of_customer ON ticket (customer);
CREATE INDEX message_of_ticket ON message (ticket);
CREATE INDEX refund_of_purchase ON refund (purchase);
"""

Row = dict[str, Any]


class NotThereError(LookupError):
    """What was asked for does not exist."""


class RefusedError(ValueError):
    """The helpdesk's own rules say no."""


def money(cents: int) -> str:
    """Return cents as people write them."""
    return f"{Decimal(cents) / 100:.2f}"


class Store:
    """Customers, orders, tickets, replies and refunds in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as db:
            if db.execute("PRAGMA user_version").fetchone()[0] < _VERSION:
                _create(db)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One connection, one transaction; rolled back where the block raises."""
        db = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        finally:
            db.close()

    def search(self, text: str, limit: int) -> list[Row]:
        """Return customers and tickets that mention ``text``, whatever its case."""
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        like = f"%{escaped}%"
        with self._transaction() as db:
            found = db.execute(
                """
                SELECT 'customer' AS kind, id, name AS title FROM customer
                 WHERE name LIKE ?1 ESCAPE '\\' OR email LIKE ?1 ESCAPE '\\'
                UNION ALL
                SELECT 'ticket', id, subject FROM ticket WHERE subject LIKE ?1 ESCAPE '\\'
                    OR id IN (SELECT ticket FROM message WHERE body LIKE ?1 ESCAPE '\\')
                 ORDER BY 1, 2 LIMIT ?2
                """,
                (like, limit),
            ).fetchall()
        return [dict(row) for row in found]

    def customer(self, customer: str) -> Row:
        """Return one customer with their orders.

        Raises:
            NotThereError: there is no such customer.
        """
        with self._transaction() as db:
            row = _one(db, "SELECT * FROM customer WHERE id = ?", customer, "customer")
            orders = db.execute(
                "SELECT id, item, cents, state, placed_on FROM purchase WHERE customer = ? ORDER BY id",
                (customer,),
            ).fetchall()
        priced = [{**dict(o), "price": money(o["cents"])} for o in orders]
        for order in priced:
            del order["cents"]
        return {**row, "orders": priced}

    def tickets(self, customer: str, state: str | None) -> list[Row]:
        """Return a customer's tickets, newest first.

        Raises:
            NotThereError: there is no such customer.
        """
        with self._transaction() as db:
            _one(db, "SELECT id FROM customer WHERE id = ?", customer, "customer")
            rows = db.execute(
                "SELECT id, subject, state, opened_at FROM ticket"
                " WHERE customer = ?1 AND (?2 IS NULL OR state = ?2) ORDER BY opened_at DESC",
                (customer, state),
            ).fetchall()
        return [dict(row) for row in rows]

    def ticket(self, ticket: str) -> Row:
        """Return one ticket with its messages and replies.

        Raises:
            NotThereError: there is no such ticket.
        """
        with self._transaction() as db:
            row = _one(db, "SELECT * FROM ticket WHERE id = ?", ticket, "ticket")
            messages = db.execute(
                "SELECT author, body FROM message WHERE ticket = ? ORDER BY id", (ticket,)
            ).fetchall()
            replies = db.execute(
                "SELECT id, state, body FROM reply WHERE ticket = ? ORDER BY id", (ticket,)
            ).fetchall()
        return {
            **row,
            "messages": [dict(m) for m in messages],
            "replies": [{**dict(r), "id": str(r["id"])} for r in replies],
        }

    def draft(self, ticket: str, body: str) -> Row:
        """Keep a draft reply; nothing leaves the helpdesk.

        Raises:
            NotThereError: there is no such ticket.
            RefusedError: the ticket is closed.
        """
        with self._transaction() as db:
            row = _one(db, "SELECT state FROM ticket WHERE id = ?", ticket, "ticket")
            if row["state"] != "open":
                raise RefusedError(f"ticket `{ticket}` is closed: reopen it before replying")
            made = db.execute(
                "INSERT INTO reply (ticket, body, state, drafted_at) VALUES (?, ?, 'draft', ?)",
                (ticket, body, _now()),
            )
            return {"reply": str(made.lastrowid), "ticket": ticket, "state": "draft"}

    def send(self, reply: str) -> Row:
        """Send a draft to the customer, once.

        Raises:
            NotThereError: there is no such reply.
            RefusedError: it was sent before.
        """
        with self._transaction() as db:
            row = _one(
                db,
                "SELECT reply.state, reply.ticket, customer.email FROM reply"
                " JOIN ticket ON ticket.id = reply.ticket"
                " JOIN customer ON customer.id = ticket.customer WHERE reply.id = ?",
                reply,
                "reply",
            )
            if row["state"] != "draft":
                raise RefusedError(f"reply `{reply}` was sent already")
            db.execute("UPDATE reply SET state = 'sent', sent_at = ? WHERE id = ?", (_now(), reply))
        return {"reply": reply, "ticket": row["ticket"], "state": "sent", "to": row["email"]}

    def refund(self, order: str, cents: int, reason: str) -> Row:
        """Give money back for an order, up to what was paid.

        Raises:
            NotThereError: there is no such order.
            RefusedError: it is more than what is left of the price.
        """
        with self._transaction() as db:
            row = _one(db, "SELECT cents FROM purchase WHERE id = ?", order, "order")
            (given,) = db.execute(
                "SELECT coalesce(sum(cents), 0) FROM refund WHERE purchase = ?", (order,)
            ).fetchone()
            left = row["cents"] - given
            if cents > left:
                raise RefusedError(f"order `{order}` has {money(left)} USD left to refund")
            made = db.execute(
                "INSERT INTO refund (purchase, cents, reason, refunded_at) VALUES (?, ?, ?, ?)",
                (order, cents, reason, _now()),
            )
        return {
            "refund": str(made.lastrowid),
            "order": order,
            "amount": money(cents),
            "left": money(left - cents),
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one(db: sqlite3.Connection, query: str, key: str, what: str) -> Row:
    row = db.execute(query, (key,)).fetchone()
    if row is None:
        raise NotThereError(f"there is no {what} `{key}`")
    return dict(row)


def _create(db: sqlite3.Connection) -> None:
    """Create the tables and their first rows, inside the caller's transaction."""
    for statement in filter(str.strip, _SCHEMA.split(";")):
        db.execute(statement)
    db.executemany("INSERT INTO customer VALUES (?, ?, ?, ?, ?)", CUSTOMERS)
    db.executemany("INSERT INTO purchase VALUES (?, ?, ?, ?, ?, ?)", ORDERS)
    db.executemany("INSERT INTO ticket VALUES (?, ?, ?, ?, ?)", TICKETS)
    db.executemany("INSERT INTO message (ticket, author, body) VALUES (?, ?, ?)", MESSAGES)
    db.execute(f"PRAGMA user_version = {_VERSION}")
