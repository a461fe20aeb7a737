"""A key that is kept elsewhere may be away, hang, break or be exchanged: it holds nobody up."""

from __future__ import annotations

import threading

import pytest

from remit.keystore.kept import KeptKey
from remit.keystore.ports import Algorithm
from remit.model.errors import ConfigError, UnavailableError
from remit.testing.keys import MemoryKey

NAME = "the log's key"


def kept(key: MemoryKey, *, seconds: float = 5.0) -> KeptKey:
    return KeptKey.open(key, Algorithm.ED25519, NAME, seconds=seconds)


def test_a_key_that_is_away_says_so_and_comes_back_by_itself():
    key = MemoryKey()
    found = kept(key)
    key.away = True
    for ask in (lambda: found.sign(b"x"), found.check):
        with pytest.raises(UnavailableError, match="the log's key: there is no token"):
            ask()
    key.away = False
    assert found.sign(b"x")


def test_a_key_that_was_there_and_is_missing_may_come_back():
    key = MemoryKey()
    found = kept(key)
    key.missing = True
    with pytest.raises(UnavailableError):
        found.check()
    key.missing = False
    found.check()


def test_a_key_that_hangs_is_given_up_and_not_asked_again_while_it_hangs():
    key = MemoryKey()
    found = kept(key, seconds=0.05)
    asked = key.asked
    key.answers.clear()
    for _ in range(3):
        with pytest.raises(UnavailableError, match="nothing has answered"):
            found.sign(b"x")
    assert key.asked == asked + 1
    held = [thread for thread in threading.enumerate() if thread.name == "remit-key"]
    assert held
    assert all(thread.daemon for thread in held), "a dead token would hold up the end"
    key.answers.set()
    for thread in held:
        thread.join()
    assert found.sign(b"x")


def test_the_key_of_another_token_signs_nothing_that_anybody_sees():
    key = MemoryKey()
    found = kept(key)
    key.exchange()
    with pytest.raises(UnavailableError, match="does not verify"):
        found.sign(b"x")


def test_what_a_provider_raises_is_not_repeated():
    key = MemoryKey()
    found = kept(key)
    for error in (ValueError("the PIN is s3cr3t"), TimeoutError("s3cr3t"), RuntimeError("s3cr3t")):
        key.error = error
        with pytest.raises(UnavailableError) as refused:
            found.sign(b"x")
        assert "s3cr3t" not in str(refused.value)
        assert type(error).__name__ in str(refused.value)


def test_a_key_of_another_kind_or_none_is_a_wrong_configuration():
    with pytest.raises(ConfigError, match="of the kind `ed25519`"):
        kept(MemoryKey(Algorithm.ES256))
    with pytest.raises(ConfigError, match="of the kind `es256`"):
        KeptKey.open(MemoryKey(), Algorithm.ES256, NAME)
    with pytest.raises(ConfigError, match="there is no key"):
        kept(MemoryKey(missing=True))


def test_a_key_is_made_once():
    key = MemoryKey(missing=True)
    made = KeptKey(key, Algorithm.ED25519, NAME).make()
    assert kept(key).public_key == made
    with pytest.raises(ConfigError, match="already"):
        KeptKey(key, Algorithm.ED25519, NAME).make()


def test_a_key_on_p_256_signs_in_der():
    found = KeptKey.open(MemoryKey(Algorithm.ES256), Algorithm.ES256, NAME)
    assert found.sign(b"x")[:1] == b"\x30"
    assert len(found.public_bytes) == 65
