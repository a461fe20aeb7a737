"""What the Workload API needs from the rest of the authority."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from remit.identity.workload_api.attestation import Entry
from remit.model.record import Json
from remit.model.subject import Agent, AgentState, SpiffeId


class IssuedX509(Protocol):
    """An X509-SVID as issued: DER certificates leaf first, PKCS#8 DER key, aware UTC expiry."""

    @property
    def certificates(self) -> Sequence[bytes]:
        """The chain, leaf first, DER."""
        ...

    @property
    def private_key(self) -> bytes:
        """The leaf's key, PKCS#8 DER."""
        ...

    @property
    def expires_at(self) -> datetime:
        """When the leaf expires."""
        ...


class Issuer(Protocol):
    """The trust domain's signing authority."""

    @property
    def name(self) -> str:
        """The trust domain."""
        ...

    def issue_jwt_svid(
        self,
        spiffe_id: SpiffeId,
        audiences: Sequence[str],
        *,
        extra: Mapping[str, Json] | None = None,
    ) -> str:
        """Return a JWT-SVID in compact form, with further claims."""
        ...

    def issue_x509_svid(self, spiffe_id: SpiffeId) -> IssuedX509:
        """Return a fresh X509-SVID."""
        ...

    def bundle(self) -> bytes:
        """Return the trust domain's bundle document, as it stands now."""
        ...


Validate = Callable[[str, str], Awaitable[Mapping[str, Json]]]
"""Token and expected audience to claims; raises UnidentifiedError for a token that fails."""

Federated = Callable[[], Mapping[str, bytes]]
"""The bundle documents of foreign trust domains, by trust domain name."""


class Agents(Protocol):
    """The part of the agent registry that is needed to know who is active."""

    def get(self, name: str) -> Agent | None:
        """Return the agent of that name."""
        ...

    def by_id(self, spiffe_id: SpiffeId, /) -> Agent | None:
        """Return the agent of that SPIFFE ID."""
        ...


class RegisteredEntries:
    """Entries from configuration, held against the registry: only active agents have any."""

    def __init__(self, agents: Agents, entries: Iterable[Entry] = ()) -> None:
        self._agents = agents
        self._entries = tuple(entries)

    def entries(self) -> Iterable[Entry]:
        """Return the entries whose agent is registered and active."""
        return [e for e in self._entries if _active(self._agents.by_id(e.spiffe_id))]

    def agent(self, name: str) -> SpiffeId | None:
        """Return the SPIFFE ID of an active agent."""
        agent = self._agents.get(name)
        return agent.spiffe_id if agent is not None and _active(agent) else None


def x509_authorities(bundle: bytes) -> bytes:
    """Return a bundle document's X.509 authorities as concatenated DER (Workload API 5.2.1)."""
    keys = json.loads(bundle)["keys"]
    return b"".join(
        base64.b64decode(key["x5c"][0]) for key in keys if key.get("use") == "x509-svid"
    )


def jwt_authorities(bundle: bytes) -> bytes:
    """Return a bundle document's JWT authorities as a JWK set (Workload API 6.2.2)."""
    keys = [key for key in json.loads(bundle)["keys"] if key.get("use") == "jwt-svid"]
    return json.dumps({"keys": keys}, separators=(",", ":")).encode()


def _active(agent: Agent | None) -> bool:
    return agent is not None and agent.state is AgentState.ACTIVE and agent.owner is not None
