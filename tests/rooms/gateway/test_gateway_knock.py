"""Whether an upstream is there is asked before anything is carried."""

from __future__ import annotations

from typing import Any

import pytest

from remit.gateway.knock import require_upstream
from remit.model.errors import ConfigError


async def test_an_upstream_that_is_there_is_let_through(plain: Any):
    await require_upstream(plain.url, "up", ["up"])


@pytest.mark.parametrize("name", ["down", "UP", "up/", "../up", "up?x", "", "up\n", "ü"])
async def test_one_that_is_not_is_named_with_those_that_are(plain: Any, name: str):
    with pytest.raises(ConfigError, match="choose one of `git`, `up`"):
        await require_upstream(plain.url, name, ["up", "git"])


async def test_an_authority_that_cannot_be_asked_is_the_business_of_the_first_message():
    await require_upstream("http://127.0.0.1:9", "up")
