"""What of a request becomes the call: all of it, in one reading, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.gateway.egress.openapi import read_operations
from remit.gateway.egress.operations import Matched, Operation, Operations, Request
from remit.model.errors import ConfigError, InputError, NotFoundError

SHOP = Operations(
    [
        Operation(name="orders.list", method="GET", path="/orders", query=("state", "page")),
        Operation(name="orders.get", method="GET", path="/orders/{order}"),
        Operation(name="orders.mine", method="GET", path="/orders/mine"),
        Operation(name="orders.make", method="POST", path="/orders", query=("dry",), body="json"),
        Operation(name="orders.note", method="PUT", path="/orders/{order}/note", body="value"),
        Operation(name="orders.drop", method="DELETE", path="/orders/{order}"),
        Operation(name="pages.show", method="GET", path="/pages/{page}/"),
    ]
)


def match(method: str, path: str, body: bytes = b"", media: str = "application/json") -> Matched:
    raw, _, query = path.partition("?")
    request = Request(
        method=method, path=raw.encode(), query=query.encode(), body=body, media=media
    )
    return SHOP.match(request)


def test_every_part_of_a_request_is_an_argument():
    found = match("GET", "/orders?state=open%20now&page=2")
    assert found.operation.name == "orders.list"
    assert found.arguments == {"state": "open now", "page": "2"}
    found = match("POST", "/orders?dry=1", b'{"item":"x","n":2}')
    assert found.arguments == {"dry": "1", "item": "x", "n": 2}
    found = match("PUT", "/orders/7/note", b'["a"]')
    assert found.arguments == {"order": "7", "body": ["a"]}


@pytest.mark.parametrize(
    "path",
    [
        "/orders/7/../8",
        "/orders/..",
        "/orders/.",
        "/orders/%2e%2e",
        "/orders/%2E",
        "/orders/7%2fnote",
        "/orders/7%5Cnote",
        "/orders//7",
        "//orders",
        "/orders/7;admin=true",
        "/orders/7%3Badmin=true",
        "/orders;v=1/7",
        "/orders/..;/7",
        "/orders/7%00",
        "/orders/7%0d%0ahost:%20evil",
        "/orders/7%3fdry=1",
        "/orders/7%23",
        "/orders/%252e%252e",
        "/orders/7%252fnote",
        "/orders/%c0%ae%c0%ae",
        "/orders/%ff",
        "/orders/%zz",
        "/orders/%",
        "/orders/7%E2%80%AE",
        "/orders/MINE",
        "/Orders/7",
        "/orders/m\u0131ne",
        "orders/7",
        "http://evil.example/orders/7",
        "*",
        "",
    ],
)
def test_a_path_that_servers_read_apart_is_refused(path: str):
    request = Request(method="GET", path=path.encode())
    with pytest.raises(InputError):
        SHOP.match(request)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/orders/7/"),
        ("GET", "/orders/"),
        ("GET", "/pages/7"),
        ("GET", "/orders/7/note"),
        ("HEAD", "/orders/7"),
        ("OPTIONS", "/orders"),
        ("TRACE", "/orders"),
        ("CONNECT", "/orders"),
        ("PATCH", "/orders/7"),
        ("get", "/orders/7"),
    ],
)
def test_what_no_operation_names_is_not_there(method: str, path: str):
    with pytest.raises(NotFoundError):
        match(method, path)


def test_an_escape_that_means_a_plain_segment_chooses_that_operation():
    found = match("GET", "/%6frders/m%69ne")
    assert found.operation.name == "orders.mine"
    assert found.path == "/orders/mine"


def test_a_slash_at_the_end_is_kept_where_the_api_wants_one():
    found = match("GET", "/pages/7/")
    assert (found.operation.name, found.path) == ("pages.show", "/pages/7/")
    assert found.arguments == {"page": "7"}


@pytest.mark.parametrize(
    "query",
    [
        "state=a&state=b",
        "state=a&State=b",
        "stat%65=a&state=b",
        "STATE=a",
        "other=1",
        "state[]=a",
        "state",
        "=a",
        "state=a&&page=1",
        "state=a;page=2",
        "state=%zz",
        "state=%ff",
        "state=a%00b",
        "&",
    ],
)
def test_a_query_that_servers_read_apart_is_refused(query: str):
    with pytest.raises(InputError):
        match("GET", f"/orders?{query}")


def test_a_plus_is_sent_as_what_it_was_read_as():
    assert match("GET", "/orders?state=a+b%2Bc").arguments == {"state": "a b+c"}
    assert match("GET", "/orders?state=a+b%2Bc").query == "state=a%20b%2Bc"


@pytest.mark.parametrize(
    "body",
    [
        b'{"item":1,"item":2}',
        b'{"item":1,"Item":2}',
        b'{"dry":"1"}',
        b'{"DRY":"1"}',
        b"[1]",
        b'"text"',
        b"null",
        b"",
        b"{",
        b'{"item":1}{"item":2}',
        b'\xef\xbb\xbf{"item":1}',
        b'{"n":12345678901234567890}',
        b'{"item":"\xff"}',
        '{"item":1}'.encode("utf-16"),
    ],
)
def test_a_body_with_two_readings_or_of_another_kind_is_refused(body: bytes):
    with pytest.raises(InputError):
        match("POST", "/orders", body)


@pytest.mark.parametrize(
    "media",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/xml",
        "application/merge-patch+json",
    ],
)
def test_a_body_of_another_type_is_refused_though_it_is_json(media: str):
    with pytest.raises(InputError):
        match("POST", "/orders", b'{"item":1}', media)


def test_an_operation_without_a_body_takes_none():
    with pytest.raises(InputError):
        match("GET", "/orders/7", b"{}")
    with pytest.raises(InputError):
        match("DELETE", "/orders/7", b'{"all":true}')


def test_a_value_and_an_object_that_holds_it_are_two_calls():
    """An approval is bound to the arguments: they have to tell two requests apart."""
    one = match("PUT", "/orders/7/note", b"[1]").arguments
    other = match("PUT", "/orders/7/note", b'{"body":[1]}').arguments
    assert one != other


def test_a_parameter_left_out_of_the_query_is_not_taken_from_the_body():
    told = match("POST", "/orders?dry=1", b'{"item":"x"}').arguments
    assert told == {"dry": "1", "item": "x"}
    with pytest.raises(InputError, match="belongs into the path or the query"):
        match("POST", "/orders", b'{"dry":"1","item":"x"}')


def test_a_path_that_two_operations_claim_alike_is_refused():
    crossed = Operations(
        [
            Operation(name="one", method="GET", path="/a/{x}"),
            Operation(name="two", method="GET", path="/{y}/b"),
        ]
    )
    with pytest.raises(InputError, match="more than one thing"):
        crossed.match(Request(method="GET", path=b"/a/b"))
    assert crossed.match(Request(method="GET", path=b"/a/c")).operation.name == "one"


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "orders"},
        {"path": "/a/../b"},
        {"path": "/a//b"},
        {"path": "/a/{b}.json"},
        {"path": "/a/{b}/{b}"},
        {"path": "/a/{b}/{B}"},
        {"path": "/a;b"},
        {"path": "/a/{b}", "query": ("b",)},
        {"path": "/a?b=c"},
        {"path": "/a b"},
        {"path": "/a%20b"},
        {"method": "TRACE"},
        {"method": "get"},
        {"name": "a/b"},
        {"name": ""},
        {"name": "x" * 129},
        {"body": "json"},
        {"method": "DELETE", "body": "value"},
        {"method": "POST", "body": "json", "media": "text/json"},
        {"method": "POST", "body": "value", "query": ("body",)},
    ],
)
def test_an_operation_that_cannot_be_told_apart_is_a_mistake(wrong: dict[str, Any]):
    with pytest.raises(ConfigError):
        Operation(**{"name": "a", "method": "GET", "path": "/a", **wrong})


def test_two_operations_of_one_name_or_one_request_are_a_mistake():
    one = Operation(name="one", method="GET", path="/a/{x}")
    for other in (
        Operation(name="one", method="GET", path="/b"),
        Operation(name="two", method="GET", path="/a/{y}"),
        Operation(name="two", method="GET", path="/A/{y}"),
    ):
        with pytest.raises(ConfigError):
            Operations([one, other])


@given(
    segment=st.text(min_size=1, max_size=20),
    value=st.text(max_size=20),
)
def test_what_is_sent_reads_as_what_was_decided(segment: str, value: str):
    shop = Operations(
        [Operation(name="x", method="GET", path="/a/{order}", query=("q",))],
    )
    request = Request(
        method="GET",
        path=f"/a/{quote(segment, safe='', errors='surrogatepass')}".encode(),
        query=f"q={quote(value, safe='', errors='surrogatepass')}".encode(),
    )
    try:
        found = shop.match(request)
    except InputError:
        return
    assert found.path.startswith("/a/")
    sent = found.path.removeprefix("/a/")
    assert "/" not in sent
    assert unquote(sent) == found.arguments["order"] == segment
    assert parse_qsl(found.query, keep_blank_values=True) == [("q", found.arguments["q"])]
    assert found.path.isascii()
    assert set(found.query) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%="
    )


DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/orders/{order-id}": {
            "parameters": [{"name": "order-id", "in": "path"}, {"$ref": "#/components/p/v"}],
            "get": {"operationId": "orders/get", "summary": "One order"},
            "patch": {
                "operationId": "orders/change",
                "requestBody": {"content": {"application/merge-patch+json": {}}},
            },
        },
        "/tags": {
            "put": {
                "operationId": "tags/set",
                "requestBody": {"$ref": "#/components/b/tags"},
            },
            "post": {
                "operationId": "tags/upload",
                "requestBody": {"content": {"multipart/form-data": {}}},
            },
        },
        "/files/{name}.txt": {"get": {"operationId": "files/get"}},
        "/unnamed": {"get": {}},
    },
    "components": {
        "p": {"v": {"name": "verbose", "in": "query"}},
        "b": {"tags": {"content": {"application/json": {"schema": {"type": "array"}}}}},
    },
}


def written(tmp_path: Path, document: Any) -> Path:
    file = tmp_path / "api.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def test_operations_are_read_from_a_document(tmp_path: Path):
    found = {each.name: each for each in read_operations(written(tmp_path, DOCUMENT))}
    assert found.keys() == {"orders.get", "orders.change", "tags.set"}
    assert found["orders.get"].parameters == ("order-id",)
    assert found["orders.get"].query == ("verbose",)
    assert found["orders.get"].description == "One order"
    assert (found["orders.change"].body, found["orders.change"].media) == (
        "json",
        "application/merge-patch+json",
    )
    assert found["tags.set"].body == "value"


def test_only_the_operations_that_are_named_are_offered(tmp_path: Path):
    found = read_operations(written(tmp_path, DOCUMENT), ["orders/get"])
    assert [each.name for each in found] == ["orders.get"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("nothing", "has no operation `nothing`"),
        ("files/get", "neither a plain path segment"),
        ("tags/upload", "is no JSON"),
    ],
)
def test_a_named_operation_that_cannot_be_offered_is_a_mistake(
    tmp_path: Path, named: str, said: str
):
    with pytest.raises(ConfigError, match=said):
        read_operations(written(tmp_path, DOCUMENT), [named])


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{]",
        "a: b: c",
        {"swagger": "2.0"},
        {
            "openapi": "3.0.0",
            "paths": {"/a": {"get": {"operationId": "a", "parameters": [{"$ref": "o.yml#/a"}]}}},
        },
        {
            "openapi": "3.0.0",
            "paths": {"/a": {"get": {"operationId": "a", "parameters": [{"$ref": "#/loop"}]}}},
            "loop": {"$ref": "#/loop"},
        },
    ],
)
def test_a_document_that_cannot_be_read_is_a_mistake(tmp_path: Path, document: Any):
    with pytest.raises(ConfigError):
        read_operations(written(tmp_path, document), ["a"])


def test_a_document_in_yaml_is_read_too(tmp_path: Path):
    text = "openapi: 3.0.0\npaths:\n  /a:\n    get:\n      operationId: a\n"
    assert [each.name for each in read_operations(written(tmp_path, text))] == ["a"]
