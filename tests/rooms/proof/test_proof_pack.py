"""The container: one spelling, every byte of it bound, nothing else let in."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import packs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packs import LOG, WITNESS, Tale, Told, edit, tale

from remit.model.errors import InputError, ProofError
from remit.proof.encoding import canonical
from remit.proof.pack import MAX_PACK_BYTES, PackedPayload, decode_pack, encode_pack
from remit.proof.verify import verify_pack

VKEY = LOG.verifier.vkey


def _small() -> bytes:
    """Return the smallest pack that still has one of everything that verification ties down."""
    told = tale()
    opening = Told(
        "task.opened", {"mandate": "", "workload": packs.WORKLOAD}, payloads={"prompt": b"x"}
    )
    steps = [
        opening,
        *packs.call("call_1", "deny", "denied"),
        Told("task.cancelled"),
        Told("task.sealed"),
    ]
    for step in steps[1:]:
        step.payloads = {}
    small = Tale(steps, mandate=told.mandate, witnesses=(WITNESS,), disclose=frozenset())
    return small.data()


SMALL = _small()


def test_every_single_byte_that_is_changed_is_refused():
    verify_pack(SMALL, [VKEY])
    for place in range(len(SMALL)):
        changed = bytearray(SMALL)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(ProofError):
            verify_pack(bytes(changed), [VKEY])


def test_every_single_byte_that_is_missing_or_doubled_is_refused():
    for place in range(0, len(SMALL), 11):
        for changed in (
            SMALL[:place] + SMALL[place + 1 :],
            SMALL[:place] + SMALL[place:][:1] + SMALL[place:],
        ):
            if changed != SMALL:
                with pytest.raises(ProofError):
                    verify_pack(changed, [VKEY])


def _scalars(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key in value:
            yield from _scalars(value[key], (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _scalars(item, (*path, place))
    else:
        yield path


def _other(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, -1, str(value)]
    if value is None:
        return ["x", 0]
    middle = len(value) // 2
    return [value + "A", value[:-1], value[:middle] + "A" + value[middle + 1 :], None, [value]]


def test_no_member_can_be_changed_even_by_who_writes_the_digest_anew():
    told = tale()
    told.witnesses = (WITNESS,)
    told.disclose = frozenset({"prompt", "facts"})
    data = told.data()
    verify_pack(data, [VKEY])
    document = json.loads(data)
    paths = [path for path in _scalars(document) if path != ("digest",)]
    assert len(paths) > 300
    for number, path in enumerate(paths):
        value = document
        for step in path:
            value = value[step]
        for other in _other(value):
            if other == value or (number % 9 and path[0] == "records"):
                continue

            def change(altered: dict[str, Any], path: Any = path, other: Any = other) -> None:
                place = altered
                for step in path[:-1]:
                    place = place[step]
                place[path[-1]] = other

            with pytest.raises(ProofError):
                verify_pack(edit(data, change), [VKEY])


def _set(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


MALFORMED = {
    "format_of_another_version": _set("format", value="remit/evidence-pack/v2"),
    "member_missing": lambda document: document.pop("withheld"),
    "member_unknown": _set("comment", value="hello"),
    "log_member_unknown": _set("log", "comment", value="hello"),
    "log_a_list": _set("log", value=[]),
    "record_member_unknown": _set("records", 0, "comment", value=1),
    "record_index_negative": _set("records", 0, "index", value=-1),
    "record_index_true": _set("records", 1, "index", value=True),
    "record_index_text": _set("records", 0, "index", value="1"),
    "record_left_out": lambda document: document["records"][0].pop("record"),
    "records_an_object": _set("records", value={}),
    "records_out_of_order": lambda document: document["records"].reverse(),
    "record_twice": lambda document: document["records"].insert(0, document["records"][0]),
    "proof_not_base64": _set("records", 0, "proof", value=["!"]),
    "proof_of_short_hashes": _set("records", 0, "proof", value=["AAAA"]),
    "proof_not_a_list": _set("records", 0, "proof", value=None),
    "witnesses_twice": lambda document: document["log"]["witnesses"].append(
        document["log"]["witnesses"][0]
    ),
    "key_private": _set("keys", "keys", 0, "d", value="AAAA"),
    "key_of_another_curve": _set("keys", "keys", 0, "crv", value="P-384"),
    "key_for_another_use": _set("keys", "keys", 0, "use", value="enc"),
    "key_without_a_name": lambda document: document["keys"]["keys"][0].pop("kid"),
    "keys_member_unknown": _set("keys", "comment", value=1),
    "keys_a_list": _set("keys", value=[]),
    "bundle_file_a_number": lambda document: next(iter(document["bundles"].values())).update(a=1),
    "bundles_a_list": _set("bundles", value=[]),
    "withheld_of_one": _set("withheld", value=[["rec_000"]]),
    "withheld_out_of_order": _set("withheld", value=[["b", "a"], ["a", "a"]]),
    "disclosed_member_unknown": _set("disclosed", 0, "comment", value=1),
    "disclosed_salt_not_base64": _set("disclosed", 0, "salt", value="A"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_document_of_another_shape_is_no_pack(name: str):
    told = tale()
    told.witnesses = (WITNESS,)
    told.disclose = frozenset({"prompt"})
    with pytest.raises(ProofError, match=r"^step 1, container: "):
        verify_pack(edit(told.data(), MALFORMED[name]), [VKEY])


def _spelt(data: bytes) -> dict[str, bytes]:
    text = data.decode()
    return {
        "empty": b"",
        "not_json": b"PK\x03\x04",
        "a_list": b"[]",
        "cut_short": data[:-1],
        "newline_at_the_end": data + b"\n",
        "two_documents": data + data,
        "space": text.replace('":"', '": "', 1).encode(),
        "indented": json.dumps(json.loads(data), indent=1).encode(),
        "escaped": json.dumps(json.loads(data), separators=(",", ":")).encode()
        if not text.isascii()
        else text.replace("format", "\\u0066ormat", 1).encode(),
        "member_twice": text.replace('"task":', '"task":"task_1","task":', 1).encode(),
        "other_order": canonical({"z": 1})[:-1] + b"," + data[1:],
        "digest_of_nothing": canonical({**json.loads(data), "digest": "sha256:" + "0" * 64}),
        "utf_16": text.encode("utf-16"),
        "byte_order_mark": b"\xef\xbb\xbf" + data,
        "deep": b'{"format":' + b"[" * 100_000,
        "float": text.replace('"index":1,', '"index":1.0,', 1).encode(),
        "not_a_number": text.replace('"index":1,', '"index":NaN,', 1).encode(),
    }


@pytest.mark.parametrize("name", _spelt(SMALL))
def test_a_pack_spelt_any_other_way_is_refused(name: str):
    spelt = _spelt(SMALL)[name]
    assert spelt != SMALL
    with pytest.raises(ProofError, match=r"^step 1, container: "):
        verify_pack(spelt, [VKEY])


def test_a_pack_that_is_too_large_is_not_even_parsed():
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_PACK_BYTES + 1

    with pytest.raises(ProofError, match="at most"):
        decode_pack(Huge(b"{}"))


def test_a_pack_reads_back_as_it_was_written():
    told = tale()
    told.disclose = frozenset({"prompt", "result"})
    pack = told.pack()
    assert decode_pack(encode_pack(pack)) == pack


def test_a_pack_with_a_list_out_of_order_is_not_written():
    pack = tale().pack()
    payload = PackedPayload(record="a", name="a", salt=b"", data=b"")
    for wrong in (
        replace(pack, records=pack.records[::-1]),
        replace(pack, keys=pack.keys * 2),
        replace(pack, disclosed=(payload, payload)),
        replace(pack, withheld=(("b", "a"), ("a", "a"))),
    ):
        with pytest.raises(InputError):
            encode_pack(wrong)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
_members = st.sampled_from(sorted({*json.loads(SMALL)} - {"digest"}))


@given(_members, _json)
def test_anything_in_place_of_a_member_is_refused_with_a_proof_error(member: str, value: Any):
    document = json.loads(SMALL)
    if document[member] == value:
        return
    document[member] = value
    with pytest.raises(ProofError):
        verify_pack(json.dumps(document).encode(), [VKEY])


@given(st.sampled_from(range(7)), st.sampled_from(["body", "payloads"]), _json)
def test_anything_in_place_of_a_body_is_refused_with_a_proof_error(
    place: int, member: str, value: Any
):
    document = json.loads(SMALL)
    records = document["records"]
    record = records[place % len(records)]["record"]
    if record[member] == value:
        return
    record[member] = value
    with pytest.raises(ProofError):
        verify_pack(json.dumps(document, separators=(",", ":")).encode(), [VKEY])


@given(
    st.sampled_from(range(27)),
    st.dictionaries(
        st.sampled_from(
            [
                "lease",
                "effect",
                "bundle",
                "mandate",
                "approval",
                "decision",
                "target",
                "records",
                "chain",
                "workload",
            ]
        ),
        _json.filter(lambda v: "." not in repr(v)),
        max_size=3,
    ),
)
def test_a_story_of_odd_bodies_ends_in_a_verdict_or_a_proof_error(place: int, body: dict[str, Any]):
    told = tale()
    told.steps[place % len(told.steps)].body.update(body)
    try:
        data = told.data()
    except InputError:
        return
    try:
        verify_pack(data, [VKEY])
    except ProofError:
        return
