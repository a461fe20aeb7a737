"""The identity desk: turns what a caller presented into a subject, or refuses it with a reason.

The rules it enforces:

- A token goes to the one check that its unverified ``iss`` and ``sub`` point to: a configured
  OIDC issuer by ``iss``, else the trust domain in ``sub``. Each check uses its own keys only, so
  a lie here only chooses where the token fails.
- The registry has the last word on every call: unregistered, suspended and retired are refused at
  once, whatever is cached.
- A token that is bound to a key (``cnf``, RFC 7800) is not accepted as bearer: the certificate it
  is bound to has to be there (RFC 8705 section 3.1). Other bindings are refused.
- A refusal is one sentence and never holds the token.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import serialization

from remit.identity import jose
from remit.identity import x509 as certificates
from remit.identity.oidc import Oidc
from remit.identity.registry import Registry
from remit.identity.svid import Verified
from remit.identity.validation import SvidValidator
from remit.model.errors import UnidentifiedError
from remit.model.subject import Agent, AgentState, Claim, Person, SpiffeId, Subject


class Identity:
    """Who asks: agents by SVID or OIDC token, people by OIDC token."""

    def __init__(
        self, registry: Registry, svids: SvidValidator, *, oidc: Oidc | None = None
    ) -> None:
        self._registry = registry
        self._svids = svids
        self._oidc = oidc

    async def identify(self, claim: Claim) -> Subject:
        """Return the workload behind a claim, with the registry's word on it.

        A bearer token decides where there is one; the certificate then only shows the key that
        the token may be bound to.

        Raises:
            UnidentifiedError: nothing was presented, it does not hold, or the registry refuses.
        """
        if claim.bearer is not None:
            return await self._by_token(claim.bearer, claim)
        if claim.certificate is not None:
            return self._subject(self._svids.certificate(claim.certificate))
        raise UnidentifiedError("no identity was presented: send a JWT-SVID or an OIDC token")

    async def person(self, token: str, *, certificate: bytes | None = None) -> Person:
        """Return the person behind a token of a configured issuer.

        Raises:
            UnidentifiedError: the token does not hold, or no rule of its issuer names a person.
        """
        parsed = jose.parse(token)
        issuer = parsed.claims().get("iss")
        if self._oidc is None or not self._oidc.knows(issuer):
            raise UnidentifiedError("the token is not from an issuer that remit was told of")
        mapped = await self._oidc.verify(token)
        _require_possession(mapped.claims, certificate)
        if mapped.person is None:
            raise UnidentifiedError(
                f"no rule of issuer `{mapped.issuer}` maps this token to a person"
            )
        return Person(id=mapped.person, method="oidc", roles=mapped.roles)

    async def _by_token(self, token: str, claim: Claim) -> Subject:
        if self._svids.remembers(token):
            return await self._by_svid(token, claim)
        claims = jose.parse(token).claims()
        if self._oidc is not None and self._oidc.knows(claims.get("iss")):
            mapped = await self._oidc.verify(token)
            _require_possession(mapped.claims, claim.certificate)
            if mapped.agent is None:
                raise UnidentifiedError(
                    f"no rule of issuer `{mapped.issuer}` maps this token to an agent"
                )
            agent = self._registry.get(mapped.agent)
            if agent is None:
                raise UnidentifiedError(f"agent `{mapped.agent}` is not registered")
            return Subject(
                workload=agent.spiffe_id,
                agent=_require_active(agent),
                method="oidc",
                issuer=mapped.issuer,
                credential=mapped.credential,
                expires_at=mapped.expires_at,
            )
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject.startswith("spiffe://"):
            raise UnidentifiedError(
                "the token is neither a JWT-SVID nor from an issuer that remit was told of"
            )
        return await self._by_svid(token, claim)

    async def _by_svid(self, token: str, claim: Claim) -> Subject:
        verified = self._svids.jwt(token, claim.audience)
        _require_possession(await self._svids.claims(token, claim.audience), claim.certificate)
        return self._subject(verified)

    def _subject(self, verified: Verified) -> Subject:
        agent = self._agent(verified.spiffe_id)
        return Subject(
            workload=verified.spiffe_id,
            agent=agent,
            method=verified.method,
            issuer=f"spiffe://{verified.spiffe_id.trust_domain}",
            credential=verified.credential,
            expires_at=verified.expires_at,
        )

    def _agent(self, spiffe_id: SpiffeId) -> Agent:
        agent = self._registry.by_id(spiffe_id)
        if agent is None:
            raise UnidentifiedError(f"no agent is registered as `{spiffe_id}`")
        return _require_active(agent)


def _require_active(agent: Agent) -> Agent:
    if agent.state is not AgentState.ACTIVE:
        raise UnidentifiedError(f"agent `{agent.name}` is {agent.state.value}")
    if agent.owner is None:
        raise UnidentifiedError(f"agent `{agent.name}` has no owner, so it may not act")
    return agent


def _require_possession(claims: Mapping[str, Any], certificate: bytes | None) -> None:
    """Raise unless a bound token came with the certificate that it is bound to."""
    if "cnf" not in claims:
        return
    binding = claims["cnf"]
    wanted = binding.get("x5t#S256") if isinstance(binding, dict) and len(binding) == 1 else None
    if not isinstance(wanted, str):
        raise UnidentifiedError("the token is bound to a key in a way that remit cannot check")
    if certificate is None:
        raise UnidentifiedError("the token is bound to a certificate, and none was presented")
    leaf = certificates.load_chain(certificate)[0]
    digest = hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).digest()
    shown = urlsafe_b64encode(digest).rstrip(b"=")
    if not hmac.compare_digest(shown, wanted.encode("utf-8", "surrogatepass")):
        raise UnidentifiedError("the token is bound to another certificate")
