"""The broker `postgres` without a server: its options, its grants, and what it composes."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sql_skeleton as statements
from postgres_crm import surroundings
from psycopg import pq

from remit.credentials.brokers.postgres.broker import PostgresBroker
from remit.credentials.brokers.postgres.grants import creation, lacking, privileges, read_grant
from remit.credentials.brokers.postgres.password import Passwords, verifier
from remit.model.errors import ConfigError, NotMintedError
from remit.testing.broker_suite import Lab

OPTIONS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 5432,
    "database": "crm",
    "user": "remit_admin",
    "password_file": "password",
    "timeout_seconds": 2.0,
}
TABLE = {"schema": "crm", "table": "customer"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "password").write_text("s3cret-of-the-admin\n")
    (tmp_path / "password").chmod(0o600)
    return tmp_path


def made(folder: Path, **changes: Any) -> PostgresBroker:
    given = {key: value for key, value in {**OPTIONS, **changes}.items() if value is not None}
    return PostgresBroker("crm-db", given, surroundings(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hosst": "x"}, "hosst"),
        ({"port": "5432"}, "port"),
        ({"port": 0}, "port"),
        ({"port": True}, "port"),
        ({"host": ""}, "host"),
        ({"host": "a,b"}, "host"),
        ({"database": ""}, "database"),
        ({"database": "x" * 64}, "database"),
        ({"user": "é" * 32}, "user"),
        ({"user": "a\x00b"}, "user"),
        ({"password_file": None}, "password_file"),
        ({"password_file": "missing"}, "password_file"),
        ({"password": "s3cret"}, "password_file"),
        ({"password": "s3cret", "password_file": None}, "must not stand"),
        ({"password": "env:", "password_file": None}, "must not stand"),
        ({"password": "env:REMIT_TEST_NO_SUCH", "password_file": None}, "REMIT_TEST_NO_SUCH"),
        ({"host": "db.corp.example", "sslmode": "require"}, "sslmode"),
        ({"host": "db.corp.example", "sslmode": "disable"}, "sslmode"),
        ({"host": "127.0.0.1.evil.example", "sslmode": "prefer"}, "sslmode"),
        ({"sslmode": "verify"}, "sslmode"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"connections": 0}, "connections"),
        ({"password_rounds": 0}, "password_rounds"),
        ({"password_rounds": True}, "password_rounds"),
        ({"owned": "keep"}, "owned"),
        ({"owned": "reassign"}, "reassign_to"),
        ({"reassign_to": "archive"}, "reassign_to"),
        ({"owned": "reassign", "reassign_to": "remit_admin"}, "powers"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_name_the_table(
    folder: Path, changes: dict[str, Any], words: str
):
    with pytest.raises(ConfigError) as caught:
        made(folder, **changes)
    text = str(caught.value)
    assert "[broker.crm-db]" in text
    assert words in text
    assert "s3cret" not in text
    assert "\n" not in text


def test_a_password_that_others_can_read_is_refused(folder: Path):
    (folder / "password").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        made(folder)


@pytest.mark.parametrize("text", ["", "\n", "a\x00b"])
def test_a_password_file_without_a_password_is_refused(folder: Path, text: str):
    (folder / "password").write_text(text)
    with pytest.raises(ConfigError, match="holds no secret"):
        made(folder)


def test_another_machine_is_checked_unless_told_how(folder: Path):
    made(folder, host="db.corp.example")
    made(folder, host="db.corp.example", sslmode="verify-ca", ca="ca.pem")
    for here in ("localhost", "::1", "127.0.0.9", "/run/postgresql"):
        made(folder, host=here)


@pytest.mark.parametrize(
    ("grant", "words"),
    [
        ({}, "grants nothing"),
        ({"tables": []}, "grants nothing"),
        ({"schemas": ["crm"]}, "grants nothing"),
        ({"tables": [TABLE], "superuser": True}, "superuser"),
        ({"tables": [{**TABLE, "where": "1=1"}]}, "where"),
        ({"tables": [{"table": "customer"}]}, "schema"),
        ({"tables": ["crm.customer"]}, "tables"),
        ({"tables": [{**TABLE, "table": ""}]}, "tables.table"),
        ({"tables": [{**TABLE, "table": "x" * 64}]}, "longer"),
        ({"tables": [{**TABLE, "table": "ü" * 32}]}, "longer"),
        ({"tables": [{**TABLE, "table": "a\nb"}]}, "printable"),
        ({"tables": [{**TABLE, "table": "a\u202eb"}]}, "printable"),
        ({"tables": [{**TABLE, "table": "\ud800"}]}, "printable"),
        ({"tables": [{**TABLE, "schema": "\x00"}]}, "printable"),
        ({"tables": [{**TABLE, "privileges": []}]}, "privileges"),
        ({"tables": [{**TABLE, "privileges": ["SELECT"]}]}, "privileges"),
        ({"tables": [{**TABLE, "privileges": ["all"]}]}, "privileges"),
        ({"tables": [{**TABLE, "privileges": ["select; drop"]}]}, "privileges"),
        ({"tables": [{**TABLE, "privileges": ["truncate"]}]}, "privileges"),
        ({"tables": [{**TABLE, "privileges": ["insert"]}]}, "read_only"),
        ({"tables": [{**TABLE, "privileges": ["delete"], "columns": ["id"]}], "read_only": False},
         "delete"),
        ({"tables": [{**TABLE, "columns": [""]}]}, "columns"),
        ({"tables": [{**TABLE, "table": "*", "columns": ["id"]}]}, "columns"),
        ({"sequences": [{"schema": "crm", "sequence": "s"}]}, "read_only"),
        ({"roles": ["pg_read_server_files"]}, "pg_read_server_files"),
        ({"roles": ["public"]}, "public"),
        ({"roles": [""]}, "roles"),
        ({"tables": [TABLE], "connections": 0}, "connections"),
        ({"tables": [TABLE], "connections": True}, "connections"),
        ({"tables": [TABLE], "statement_seconds": 0.0}, "statement_seconds"),
        ({"tables": [TABLE], "idle_seconds": float("nan")}, "idle_seconds"),
    ],
)  # fmt: skip
def test_a_grant_that_cannot_be_meant_is_refused_when_it_is_read(
    folder: Path, grant: dict[str, Any], words: str
):
    with pytest.raises(ConfigError) as caught:
        made(folder).check(grant)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


NAMES = ['"; DROP TABLE x; --', "a b", "'", "$$", "\\", "SELECT", "naïve", "%s", "{}", 'q"q', "a.b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_only_ever_a_name(name: str):
    grant = read_grant(
        {
            "tables": [
                {"schema": name, "table": name, "columns": [name], "privileges": ["select"]}
            ],
            "sequences": [{"schema": name, "sequence": name}],
            "roles": [name],
            "read_only": False,
        }
    )
    made_of = creation(
        "remit-x", verifier=name, grant=grant, expires_at=datetime(2026, 1, 1, tzinfo=UTC),
        application=name,
    ).as_string()  # fmt: skip
    given = privileges("remit-x", grant, database=name, groups_by_set=True).as_string()
    asked = lacking("remit-x", grant, database=name).as_string()
    plain = read_grant(
        {
            "tables": [{"schema": "n", "table": "n", "columns": ["n"]}],
            "sequences": [{"schema": "n", "sequence": "n"}],
            "roles": ["n"],
            "read_only": False,
        }
    )
    same = privileges("remit-x", plain, database="n", groups_by_set=True).as_string()
    assert statements.skeleton(given) == statements.skeleton(same)
    assert statements.skeleton(made_of).count(";") == 4
    assert ";" not in statements.skeleton(asked)


async def test_a_grant_filled_with_what_an_agent_chose_is_looked_at_again(folder: Path):
    """References to arguments are filled in after the configuration was read."""

    class Elsewhere:
        broker = made(folder, port=1)
        grant = {"tables": [{"schema": "crm", "table": "x" * 64}]}  # noqa: RUF012 - a test's own
        installation = "remit-0badcafe"

    with pytest.raises(NotMintedError, match="longer"):
        await Elsewhere.broker.issue(Lab(Elsewhere()).order())  # type: ignore[arg-type]


async def test_a_server_that_is_not_there_minted_nothing(folder: Path):
    class Elsewhere:
        broker = made(folder, port=1)
        grant = {"tables": [TABLE]}  # noqa: RUF012 - a test's own
        installation = "remit-0badcafe"

    with pytest.raises(NotMintedError, match=r"127\.0\.0\.1:1") as caught:
        await Elsewhere.broker.issue(Lab(Elsewhere()).order())  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)


def test_the_verifier_is_what_the_servers_own_library_would_have_made():
    password = "0_aB-cD9" * 5
    connection = pq.PGconn.connect_start(b"host=/nowhere")
    theirs = connection.encrypt_password(password.encode(), b"anybody", b"scram-sha-256").decode()
    salt = base64.b64decode(theirs.split("$")[1].split(":")[1])
    assert verifier(password, salt) == theirs


async def test_a_password_is_given_once_and_shown_to_nobody():
    passwords = Passwords()
    passwords.prepare()
    given = [*await asyncio.gather(*(passwords.take() for _ in range(4)))]
    passwords.prepare()
    passwords.prepare()
    given.append(await passwords.take())
    assert len({each.text for each in given} | {each.verifier for each in given}) == 10
    assert all(each.text not in repr(each) and each.verifier not in repr(each) for each in given)
    passwords.prepare()
    await passwords.close()
    await passwords.close()


async def test_a_server_that_is_not_there_is_told_with_the_reason(folder: Path):
    broker = made(folder, port=1)
    with pytest.raises(NotMintedError, match=r"127.0.0.1:1.*`remit_admin`: Connection refused$"):
        await broker.survey()
    await broker.close()
