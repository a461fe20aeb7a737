"""The identity desk: turns what a caller presented into a subject, or refuses it with a reason.

The rules it enforces:

- A token goes to the one check that its unverified ``iss`` and ``sub`` point to: a configured
  OIDC issuer by ``iss``, else the trust domain in ``sub``. Each check uses its own keys only, so
  a lie here only chooses where the token fails.
- The registry has the last word on every call: unregistered, suspended and retired are refused at
  once, whatever is cached.
- A token that is bound to a key (``cnf``, RFC 7800) is not accepted as bearer: the certificate it
  is bound to has to be there (RFC 8705 section 3.1), or a fresh proof by the key (RFC 9449 section
  7.1). Other bindings are refused.
- A proof of possession is checked wherever there is one, also where nothing is bound to its key, and
  used up once its sender is known: who is not known fills no memory.
- A refusal is one sentence and never holds the token.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives import serialization

from remit.identity import jose
from remit.identity import x509 as certificates
from remit.identity.dpop import InvalidProofError, Proofs, Shown
from remit.identity.oidc import Oidc
from remit.identity.registry import Registry
from remit.identity.svid import Verified
from remit.identity.validation import SvidValidator
from remit.model.errors import UnidentifiedError
from remit.model.record import Context, Recorder
from remit.model.subject import Agent, AgentState, Claim, Person, SpiffeId, Subject


class Identity:
    """Who asks: agents by SVID or OIDC token, people by OIDC token."""

    def __init__(
        self,
        registry: Registry,
        svids: SvidValidator,
        *,
        oidc: Oidc | None = None,
        proofs: Proofs | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._registry = registry
        self._svids = svids
        self._oidc = oidc
        self._proofs = proofs
        self._recorder = recorder

    async def refuse(self, error: UnidentifiedError) -> None:
        """Leave a record of a refused identity, durable when this returns.

        Raises:
            EvidenceError: it could not be recorded.
        """
        if self._recorder is not None:
            self._recorder.stage(error.record(), Context())
            await self._recorder.barrier()

    async def receive(self, claim: Claim) -> tuple[Claim, Subject]:
        """Return the workload behind a request, and the claim with the key that was shown in it.

        Once a request: it uses the request's proof up. The claim it returns can be identified again.

        Raises:
            UnidentifiedError: as :meth:`identify`; an InvalidProofError where it is the proof's
                fault.
        """
        claim, shown = self._possessed(claim)
        subject = await self.identify(claim)
        self._use(shown, str(subject.workload))
        return claim, subject

    async def receive_person(self, claim: Claim) -> Person:
        """Return the person behind a request, as :meth:`receive` does the workload.

        Raises:
            UnidentifiedError: as :meth:`person`.
        """
        claim, shown = self._possessed(claim)
        person = await self._person(claim)
        self._use(shown, person.id)
        return person

    def _possessed(self, claim: Claim) -> tuple[Claim, Shown | None]:
        shown = None
        if self._proofs is not None and claim.possession is not None:
            shown = self._proofs.read(claim.possession, claim.bearer)
        if claim.as_dpop and shown is None:
            raise InvalidProofError("a token under the scheme `DPoP` comes with a proof in `DPoP`")
        key = None if shown is None else shown.key
        return replace(claim, possession=None, key=key), shown

    def _use(self, shown: Shown | None, by: str) -> None:
        if self._proofs is not None and shown is not None:
            self._proofs.use(shown, by)

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
            return self._subject(self._svids.certificate(claim.certificate), claim, bound=False)
        raise UnidentifiedError("no identity was presented: send a JWT-SVID or an OIDC token")

    async def person(self, token: str, *, certificate: bytes | None = None) -> Person:
        """Return the person behind a token of a configured issuer.

        Raises:
            UnidentifiedError: the token does not hold, or no rule of its issuer names a person.
        """
        return await self._person(Claim(bearer=token, certificate=certificate))

    async def _person(self, claim: Claim) -> Person:
        token = claim.bearer or ""
        issuer = jose.parse(token).claims().get("iss")
        if self._oidc is None or not self._oidc.knows(issuer):
            raise UnidentifiedError("the token is not from an issuer that remit was told of")
        mapped = await self._oidc.verify(token)
        _require_possession(mapped.claims, claim)
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
            bound = _require_possession(mapped.claims, claim)
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
                key=claim.key,
                bound=bound,
            )
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject.startswith("spiffe://"):
            raise UnidentifiedError(
                "the token is neither a JWT-SVID nor from an issuer that remit was told of"
            )
        return await self._by_svid(token, claim)

    async def _by_svid(self, token: str, claim: Claim) -> Subject:
        verified = self._svids.jwt(token, claim.audience)
        bound = _require_possession(await self._svids.claims(token, claim.audience), claim)
        return self._subject(verified, claim, bound=bound)

    def _subject(self, verified: Verified, claim: Claim, *, bound: bool) -> Subject:
        agent = self._agent(verified.spiffe_id)
        return Subject(
            workload=verified.spiffe_id,
            agent=agent,
            method=verified.method,
            issuer=f"spiffe://{verified.spiffe_id.trust_domain}",
            credential=verified.credential,
            expires_at=verified.expires_at,
            key=claim.key,
            bound=bound,
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


def _require_possession(claims: Mapping[str, Any], claim: Claim) -> bool:
    """Return whether a token is bound to the proven key, having raised where it may not be used."""
    if "cnf" not in claims:
        return False
    binding = claims["cnf"]
    name, wanted = (
        next(iter(binding.items())) if isinstance(binding, dict) and len(binding) == 1 else ("", "")
    )
    if name == "jkt" and isinstance(wanted, str):
        _require_key(wanted, claim)
        return True
    if name != "x5t#S256" or not isinstance(wanted, str):
        raise UnidentifiedError("the token is bound to a key in a way that remit cannot check")
    if claim.certificate is None:
        raise UnidentifiedError("the token is bound to a certificate, and none was presented")
    leaf = certificates.load_chain(claim.certificate)[0]
    digest = hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).digest()
    shown = urlsafe_b64encode(digest).rstrip(b"=")
    if not hmac.compare_digest(shown, wanted.encode("utf-8", "surrogatepass")):
        raise UnidentifiedError("the token is bound to another certificate")
    return False


def _require_key(wanted: str, claim: Claim) -> None:
    """Raise unless the sender showed the key, under the scheme that says so (RFC 9449 section 7.2)."""
    if claim.key is None:
        raise InvalidProofError("the token is bound to a key: send a proof of possession in `DPoP`")
    if not claim.as_dpop:
        raise InvalidProofError("the token is bound to a key: send it as `Authorization: DPoP`")
    if not hmac.compare_digest(claim.key.encode(), wanted.encode("utf-8", "surrogatepass")):
        raise InvalidProofError("the token is bound to another key than the proof shows")
