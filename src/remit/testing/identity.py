"""Identity in memory, for tests: a store of agents and a trust domain in a throw-away folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey

from remit.identity.trust_domain import TrustDomain
from remit.model.subject import Agent

_CURVES = {"P-256": SECP256R1(), "P-384": SECP384R1()}


class MemoryAgents:
    """Implements ``identity.ports.AgentStore``."""

    def __init__(self, agents: Sequence[Agent] = ()) -> None:
        self.agents = {agent.name: agent for agent in agents}

    def put(self, agent: Agent) -> None:
        """Keep an agent's present state."""
        self.agents[agent.name] = agent

    async def list(self) -> Sequence[Agent]:
        """Return every agent, by name."""
        return [self.agents[name] for name in sorted(self.agents)]


def trust_domain(
    folder: Path, *, clock: Callable[[], datetime], name: str = "test.example"
) -> TrustDomain:
    """Return a real trust domain with its keys below ``folder``."""
    return TrustDomain.open(folder / "keys", name, clock=clock)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


class ForeignSigner:
    """Signs whatever it is told to, well-formed or not, under a key of its own."""

    def __init__(self, kid: str = "foreign", curve: str = "P-256") -> None:
        self.kid = kid
        self._private = generate_private_key(_CURVES[curve])
        self.key = ECKey.import_key(self._private)

    def jwk(self, use: str = "jwt-svid") -> dict[str, Any]:
        """Return the public key."""
        public = self.key.as_dict(private=False)
        point = {name: public[name] for name in ("kty", "crv", "x", "y")}
        return {**point, "kid": self.kid, "use": use}

    def bundle(self, *, sequence: int = 1) -> bytes:
        """Return a SPIFFE bundle document of this one key."""
        return json.dumps({"keys": [self.jwk()], "spiffe_sequence": sequence}).encode()

    def sign(self, payload: Mapping[str, Any] | bytes, **header: Any) -> str:
        """Return a compact JWS; a header given as None is left out."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        head = {"alg": "ES256", "kid": self.kid, "typ": "JWT", **header}
        head = {name: value for name, value in head.items() if value is not None}
        signed = f"{base64url(json.dumps(head).encode())}.{base64url(data)}"
        key = self.key.private_key
        if key is None:
            raise ValueError("a signer has a private key")
        r, s = decode_dss_signature(key.sign(signed.encode(), ECDSA(SHA256())))
        size = (key.key_size + 7) // 8
        return f"{signed}.{base64url(r.to_bytes(size) + s.to_bytes(size))}"


def base64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
