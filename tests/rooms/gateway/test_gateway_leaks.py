from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.gateway.leaks import MINTED, Hit, LeakGuard, StreamGuard

SECRET = 's3cr3t/+value=&of"a\\lease☂'
LIVE: Mapping[str, str] = {SECRET: "lease_1", "another-secret-value": "lease_2"}


def guard(live: Mapping[str, str] = LIVE, scanner: Any = None) -> LeakGuard:
    return LeakGuard(lambda: live, scanner)


def message(*texts: Any) -> bytes:
    content = [{"type": "text", "text": text} for text in texts]
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": content}}).encode()


def test_a_message_without_a_secret_is_the_same_bytes():
    data = message("nothing here", "☂")
    cleaned, leaks = guard().clean(data)
    assert cleaned is data
    assert leaks == ()


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        f"before{SECRET}after",
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        base64.b64encode(b"a file with " + SECRET.encode() + b" in it").decode(),
    ],
)
def test_a_minted_secret_is_taken_out_in_every_form_and_its_lease_named(shown: str):
    cleaned, leaks = guard().clean(message("kept", shown))
    assert [(leak.rule, leak.lease) for leak in leaks] == [(MINTED, "lease_1")]
    text = json.loads(cleaned)["result"]["content"]
    assert text[0]["text"] == "kept"
    assert "[removed by remit: remit.credential]" in text[1]["text"]
    assert SECRET not in json.dumps(text, ensure_ascii=False)
    assert SECRET not in repr(leaks)


@given(
    before=st.binary(max_size=7),
    after=st.binary(max_size=7),
    urlsafe=st.booleans(),
    data=st.data(),
)
def test_base64_hides_nothing_wherever_the_secret_begins(
    before: bytes, after: bytes, urlsafe: bool, data: Any
):
    secret = data.draw(st.text(st.characters(codec="ascii", min_codepoint=33), min_size=8))
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    shown = f"Authorization: Basic {encode(before + secret.encode() + after).decode()}, and more"
    cleaned, (leak,) = guard({secret: "lease_1"}).clean_text(shown)
    assert leak.lease == "lease_1"
    rest = cleaned.partition("Basic ")[2].removesuffix(", and more")
    left = rest.replace("[removed by remit: remit.credential]", "")
    # At most what the neighbours have a part in.
    assert len(left.rstrip("=")) <= (len(before) + len(after)) * 8 / 6 + 4


def test_escapes_hide_nothing_and_keys_are_looked_at_too():
    escaped = "".join(f"\\u{ord(c):04x}" for c in SECRET)
    data = ('{"jsonrpc":"2.0","id":1,"result":{"' + escaped + '":"' + escaped + '"}}').encode()
    assert SECRET.encode() not in data
    cleaned, (leak,) = guard().clean(data)
    assert leak.count == 2
    assert SECRET not in json.dumps(json.loads(cleaned), ensure_ascii=False)


def test_what_is_no_json_is_looked_at_as_text():
    cleaned, (leak,) = guard().clean(f"oops: {SECRET}".encode())
    assert leak.lease == "lease_1"
    assert SECRET.encode() not in cleaned


def test_two_secrets_one_within_the_other_leave_no_half():
    live = {"password-one": "lease_1", "password-one-and-more": "lease_2"}
    cleaned, leaks = guard(live).clean_text("password-one-and-more password-one")
    assert "password" not in cleaned
    assert {leak.lease for leak in leaks} == {"lease_1", "lease_2"}


def test_a_short_value_is_not_hunted_through_ordinary_text():
    assert guard({"abc": "lease_1"}).clean_text("the abc of it") == ("the abc of it", ())


class _Rules:
    def scan(self, text: str) -> Sequence[Hit]:
        return [Hit(rule="example.key", secret="KEY-12345678")] if "KEY-12345678" in text else []


def test_a_scanners_hit_is_taken_out_and_counted_and_names_no_lease():
    cleaned, (leak,) = guard(scanner=_Rules()).clean(message("use KEY-12345678, KEY-12345678"))
    assert (leak.rule, leak.count, leak.lease) == ("example.key", 2, None)
    assert b"KEY-12345678" not in cleaned
    assert b"[removed by remit: example.key]" in cleaned


@given(
    secret=st.text(min_size=8, max_size=60),
    before=st.text(max_size=40),
    after=st.text(max_size=40),
    depth=st.integers(0, 6),
)
def test_no_secret_comes_through_whatever_is_around_it(
    secret: str, before: str, after: str, depth: int
):
    value: Any = before + secret + after
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    data = json.dumps({"jsonrpc": "2.0", "id": 1, "result": value}).encode()
    cleaned, leaks = guard({secret: "lease_1"}).clean(data)
    assert leaks
    read = json.loads(cleaned)["result"]
    for _ in range(depth):
        read = read[0] if isinstance(read, list) else read["k"]
    assert secret not in read or secret in "[removed by remit: remit.credential]"


@given(
    secret=st.binary(min_size=8, max_size=20),
    before=st.binary(max_size=30),
    after=st.binary(max_size=30),
    size=st.integers(1, 40),
    doubled=st.booleans(),
)
def test_no_secret_comes_through_a_stream_however_it_is_cut(
    secret: bytes, before: bytes, after: bytes, size: int, doubled: bool
):
    stream = StreamGuard(lambda: {secret: "lease_1"})
    # Its own beginning before it is what a search that jumps too far misses.
    data = before + secret[: len(secret) // 2] * doubled + secret + after
    told = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size))
    told += stream.end()
    assert stream.leaks
    assert secret not in told.replace(b"[removed by remit: remit.credential]", b"\xff")


@given(
    secret=st.binary(min_size=8, max_size=12),
    more=st.binary(min_size=1, max_size=8),
    less=st.binary(min_size=1, max_size=8),
    size=st.integers(1, 24),
)
def test_of_secrets_within_each_other_a_stream_leaves_no_half(
    secret: bytes, more: bytes, less: bytes, size: int
):
    longer = less + secret + more
    live = {secret: "lease_1", longer: "lease_2", less + secret: "lease_3"}
    stream = StreamGuard(lambda: live)
    data = b"<" + longer + b">"
    told = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size))
    told += stream.end()
    assert told == b"<[removed by remit: remit.credential]>"
    assert [leak.lease for leak in stream.leaks] == ["lease_2"]


def test_a_stream_holds_back_only_what_may_be_the_beginning_of_a_secret():
    stream = StreamGuard(lambda: {b"abcdefgh": "lease_1"})
    assert stream.feed(b"data: x\n\n") == b"data: x\n\n"
    assert stream.feed(b"data: abc") == b"data: "
    assert stream.feed(b"abx") == b"abcabx"
    assert stream.feed(b"abcdefg") == b""
    assert stream.end() == b"abcdefg"
