"""Sealed keys are the owner's over the control socket, and no route gives a value back."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from processes import free_port

from remit.app.compose import House
from remit.app.config import load
from remit.app.serve import serving
from remit.cli.client import ControlClient, RefusedError

SECRET = "sk-live-0123456789abcdef"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    (tmp_path / "remit.toml").write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{free_port()}"\n'
    )
    async with serving(load(tmp_path / "remit.toml")) as running:
        yield running


async def ask(house: House, method: str, *parts: str, body: object = None) -> Any:
    client = ControlClient(house.loaded.control_socket)
    return json.loads(await asyncio.to_thread(client.ask, method, parts, body=body))


async def test_a_key_is_sealed_rotated_listed_and_removed_and_never_given_back(house: House):
    answers = [
        await ask(house, "POST", "credentials", body={"name": "crm", "secret": SECRET}),
        await ask(house, "POST", "credentials", "crm", "rotate", body={"secret": f"{SECRET}-2"}),
        await ask(house, "GET", "credentials"),
        await ask(house, "POST", "credentials", "crm", "remove"),
    ]
    assert answers[2]["items"] == [answers[1]]
    assert answers[0].keys() == {
        "name", "fingerprint", "sealed_at", "rotated_at", "by", "last_used",
        "age_days", "max_age_days", "aged",
    }  # fmt: skip
    assert SECRET not in json.dumps(answers)
    assert (await ask(house, "GET", "credentials"))["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": "crm"},
        {"name": "crm", "secret": 1},
        {"name": "crm", "secret": SECRET, "more": SECRET},
        {"name": f"../{SECRET}", "secret": SECRET},
        {"name": "crm", "secret": [SECRET]},
        [SECRET],
        {"name": "crm", "secret": f"{SECRET}\x00"},
    ],
    ids=repr,
)
async def test_a_refusal_does_not_repeat_the_key(house: House, body: object):
    with pytest.raises(RefusedError) as raised:
        await ask(house, "POST", "credentials", body=body)
    assert raised.value.answered == 400
    if not isinstance(body, dict) or body.get("name") == "crm":
        assert SECRET not in str(raised.value.error)


async def test_nobody_but_the_owner_asks_even_with_a_token(house: House):
    def fetch(method: str, path: str) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{house.loaded.port}{path}",
            data=b"{}" if method == "POST" else None,
            headers={"Authorization": "Bearer x"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    for method, path in (
        ("GET", "/credentials"),
        ("POST", "/credentials"),
        ("POST", "/credentials/crm/rotate"),
        ("POST", "/credentials/crm/remove"),
    ):
        assert await asyncio.to_thread(fetch, method, path) in {401, 403}


async def test_what_is_known_of_a_key_is_in_the_metrics(house: House):
    def metric(name: str) -> float | None:
        return house.metrics.registry.get_sample_value(name)

    assert metric("remit_sealed_keys") == 0
    assert metric("remit_sealed_key_oldest_seconds") == 0
    await ask(house, "POST", "credentials", body={"name": "crm", "secret": SECRET})
    assert metric("remit_sealed_keys") == 1
    assert metric("remit_sealed_keys_aged") == 0


async def test_the_state_folder_holds_no_sealed_key_in_clear(house: House):
    await ask(house, "POST", "credentials", body={"name": "crm", "secret": SECRET})
    await house.authority.evidence.barrier()
    files = [each for each in house.loaded.state.rglob("*") if each.is_file()]
    assert any(each.name == "crm" for each in files)
    assert not [each for each in files if SECRET.encode() in each.read_bytes()]
