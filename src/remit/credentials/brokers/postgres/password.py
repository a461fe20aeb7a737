"""Passwords of leases' roles, each with what the server keeps of it: SCRAM-SHA-256 (RFC 5802, 7677).

The rounds of the hash are for passwords that people think of; these have 256 random bits, which no
guessing finds. Some clients refuse fewer all the same (older drivers for Java), so they are gone
through, in a thread and while nobody waits. Remit itself needs none, as whoever logs in to its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

_BYTES = 32
_SALT_BYTES = 16
ROUNDS = 4096
"""As many as RFC 7677, section 4, wants at least."""

_OUR_ROUNDS = 1


@dataclass(frozen=True, slots=True)
class Password:
    """A password nobody has yet, and the verifier that a role is made with."""

    text: str = field(repr=False)
    verifier: str = field(repr=False)


class Passwords:
    """Makes passwords whose hash has ``rounds``, one of them ahead."""

    def __init__(self, rounds: int = ROUNDS) -> None:
        self._rounds = rounds
        self._ahead: asyncio.Task[Password] | None = None

    async def take(self) -> Password:
        """Return a password that nobody else is given."""
        ahead, self._ahead = self._ahead, None
        return await (asyncio.to_thread(_made, self._rounds) if ahead is None else ahead)

    def prepare(self) -> None:
        """Begin to make the next one."""
        if self._ahead is None:
            self._ahead = asyncio.create_task(asyncio.to_thread(_made, self._rounds))

    async def close(self) -> None:
        """Throw away what nobody was given."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait({ahead})


def our_own() -> Password:
    """Return a password that nobody but Remit will log in with."""
    return _made(_OUR_ROUNDS)


def _made(rounds: int) -> Password:
    text = secrets.token_urlsafe(_BYTES)
    return Password(text, verifier(text, secrets.token_bytes(_SALT_BYTES), rounds))


def verifier(password: str, salt: bytes, rounds: int = ROUNDS) -> str:
    """Return an ASCII password as a server stores it; ``hashlib`` holds no other thread up."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    words = [base64.b64encode(each).decode() for each in (salt, stored, server)]
    return f"SCRAM-SHA-256${rounds}:{words[0]}${words[1]}:{words[2]}"
