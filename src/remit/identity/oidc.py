"""Tokens of configured OpenID Connect issuers, mapped to agents and people by explicit rules.

The rules it enforces:

- Only configured issuers are ever asked; where their keys are comes from their own discovery
  document, whose ``issuer`` has to be the configured one to the byte (OIDC Discovery section 4.3).
- ``iss``, ``aud``, ``exp`` and ``sub`` are required; ``nbf`` and ``iat`` are held to where they
  are there. The algorithm is on the issuer's list and fits the key.
- An unknown key id makes the keys be fetched again, at most once in ``refresh_seconds``, so that
  a stranger's made-up ids cannot make Remit hammer an issuer.
- A token that no rule maps is refused. Rules are tried in order and the first that matches counts.
"""

from __future__ import annotations

import asyncio
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import structlog

from remit.identity import jose
from remit.identity.cache import VerifiedCache
from remit.identity.https import fetch, require_https
from remit.model.errors import ConfigError, UnavailableError, UnidentifiedError

Clock = Callable[[], datetime]

LEEWAY_SECONDS = 30
"""How far ahead of ours an issuer's clock may be."""
REFRESH_SECONDS = 30
MAX_AGE_SECONDS = 3600
"""How old the keys may be before they are asked for again."""
MAX_STALE_SECONDS = 86_400
"""How old the keys may get while the issuer cannot be reached."""
_MAX_DOCUMENT_BYTES = 256 * 1024
_MAX_KEYS = 64
_TYPES = (None, "JWT", "at+jwt", "application/at+jwt")
_PLACEHOLDER = re.compile(r"[A-Za-z0-9_.:/-]+\Z")
_MAX_PERSON = 256

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Tokens with all these claims are this agent, or this person with these roles.

    A claim matches by equality, or, where the token holds a list, by being in it. ``person`` may
    hold ``{claim}`` for a claim's text, as ``{email}``.
    """

    claims: Mapping[str, str]
    agent: str | None = None
    person: str | None = None
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer whose tokens are accepted, for one audience."""

    issuer: str
    audience: str
    rules: tuple[Rule, ...]
    algorithms: frozenset[str] = frozenset({"RS256", "ES256", "PS256"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """A token that held, and what the rules make of it: an agent's name, or a person."""

    issuer: str
    credential: str
    expires_at: datetime
    agent: str | None
    person: str | None
    roles: tuple[str, ...]
    claims: Mapping[str, Any] = field(repr=False)


@dataclass(slots=True)
class _Keys:
    """What is known of one issuer's keys. ``found`` is replaced whole when they are fetched."""

    found: Mapping[str, jose.PublicKey] | None = None
    fetched_at: datetime | None = None
    asked_at: datetime | None = None
    trouble: str = ""
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Oidc:
    """The configured issuers, asked through ``session``."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        session: aiohttp.ClientSession,
        *,
        clock: Clock,
        refresh_seconds: float = REFRESH_SECONDS,
        leeway_seconds: int = LEEWAY_SECONDS,
    ) -> None:
        """Take the issuers.

        Raises:
            ConfigError: one is there twice, has no https address, no audience, or a rule that
                matches every token or names neither an agent nor a person.
        """
        self._issuers: dict[str, Issuer] = {}
        for issuer in issuers:
            _check(issuer)
            if issuer.issuer in self._issuers:
                raise ConfigError(f"issuer `{issuer.issuer}` is configured twice")
            self._issuers[issuer.issuer] = issuer
        self._keys = {name: _Keys() for name in self._issuers}
        self._session = session
        self._clock = clock
        self._refresh = timedelta(seconds=refresh_seconds)
        self._leeway = leeway_seconds
        self._verified: VerifiedCache[Mapped] = VerifiedCache(clock=clock)

    def knows(self, issuer: object) -> bool:
        """Return whether this is the name of a configured issuer."""
        return isinstance(issuer, str) and issuer in self._issuers

    async def verify(self, token: str) -> Mapped:
        """Return what a token is mapped to.

        Raises:
            UnidentifiedError: the token does not hold, its issuer's keys cannot be had, or no rule
                maps it.
        """
        digest = jose.digest_of(token)
        known = self._verified.peek(digest)
        if known is not None and self._fresh(self._keys[known.issuer]):
            known = self._verified.get(digest, self._keys[known.issuer].found)
            if known is not None:
                return known
        parsed = jose.parse(token)
        claims = parsed.claims()
        issuer = self._issuers.get(claims["iss"]) if self.knows(claims.get("iss")) else None
        if issuer is None:
            raise UnidentifiedError("the token is not from an issuer that remit was told of")
        if parsed.header.get("typ") not in _TYPES:
            raise UnidentifiedError("the token's type is not that of an identity or access token")
        if parsed.algorithm not in issuer.algorithms:
            raise UnidentifiedError(
                f"issuer `{issuer.issuer}` may not use the algorithm `{parsed.algorithm}`"
            )
        # Everything that needs no key is checked first, so that junk causes no fetch.
        jose.require_audience(claims, (issuer.audience,))
        expires_at = jose.require_lifetime(claims, self._clock(), self._leeway)
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            raise UnidentifiedError("the token has no subject")
        keys, key = await self._key(issuer.issuer, parsed.kid)
        jose.verify_signature(parsed, key)
        mapped = _mapped(issuer, parsed.digest, expires_at, claims)
        self._verified.put(digest, mapped, expires_at=expires_at, keys=keys)
        return mapped

    async def _key(
        self, issuer: str, kid: str | None
    ) -> tuple[Mapping[str, jose.PublicKey], jose.PublicKey]:
        state = self._keys[issuer]
        if not self._fresh(state) or _pick(state.found, kid) is None:
            async with state.asking:
                if not self._fresh(state) or _pick(state.found, kid) is None:
                    await self._ask(issuer, state)
        if state.found is None or not self._usable(state):
            raise UnidentifiedError(f"the keys of issuer `{issuer}` cannot be had: {state.trouble}")
        key = _pick(state.found, kid)
        if key is None:
            raise UnidentifiedError(f"issuer `{issuer}` has no key that signed this token")
        return state.found, key

    async def _ask(self, issuer: str, state: _Keys) -> None:
        """Fetch an issuer's keys, unless it was asked a moment ago; trouble keeps the last ones."""
        now = self._clock()
        if state.asked_at is not None and now - state.asked_at < self._refresh:
            return
        state.asked_at = now
        try:
            state.found = await self._fetch(issuer)
            state.fetched_at = now
            state.trouble = ""
        except (UnavailableError, UnidentifiedError, ConfigError, ValueError) as error:
            state.trouble = str(error)
            log.warning("an issuer's keys cannot be fetched", issuer=issuer, reason=str(error))

    async def _fetch(self, issuer: str) -> Mapping[str, jose.PublicKey]:
        discovery = jose.strict_object(
            await fetch(
                self._session,
                issuer.rstrip("/") + "/.well-known/openid-configuration",
                max_bytes=_MAX_DOCUMENT_BYTES,
            ),
            "the issuer's discovery document",
        )
        if discovery.get("issuer") != issuer:
            raise ValueError("its discovery document is that of another issuer")
        address = discovery.get("jwks_uri")
        if not isinstance(address, str):
            raise ValueError("its discovery document names no keys")  # noqa: TRY004 - its fault
        require_https(address, "the jwks_uri")
        document = jose.strict_object(
            await fetch(self._session, address, max_bytes=_MAX_DOCUMENT_BYTES), "the key set"
        )
        listed = document.get("keys")
        if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
            raise ValueError("its key set is not a list of keys, or too long")
        return jose.by_kid(_importable(listed))

    def _fresh(self, state: _Keys) -> bool:
        return self._younger(state, MAX_AGE_SECONDS)

    def _usable(self, state: _Keys) -> bool:
        return self._younger(state, MAX_STALE_SECONDS)

    def _younger(self, state: _Keys, seconds: int) -> bool:
        if state.found is None or state.fetched_at is None:
            return False
        return self._clock() - state.fetched_at < timedelta(seconds=seconds)


def _importable(listed: Sequence[Any]) -> list[jose.PublicKey]:
    """Return the keys that can verify a token; issuers list others beside them."""
    found = []
    for jwk in listed:
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
            continue
        try:
            found.append(jose.import_key(jwk))
        except ValueError as error:
            log.info("a key of an issuer is passed over", reason=str(error))
    return found


def _pick(keys: Mapping[str, jose.PublicKey] | None, kid: str | None) -> jose.PublicKey | None:
    """Return the key of this id; a token without one is accepted only where there is one key."""
    if not keys:
        return None
    if kid is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(kid)


def _mapped(
    issuer: Issuer, credential: str, expires_at: datetime, claims: Mapping[str, Any]
) -> Mapped:
    for rule in issuer.rules:
        if all(_matches(claims.get(name), wanted) for name, wanted in rule.claims.items()):
            return Mapped(
                issuer=issuer.issuer,
                credential=credential,
                expires_at=expires_at,
                agent=rule.agent,
                person=None if rule.person is None else _filled(rule.person, claims),
                roles=rule.roles,
                claims=claims,
            )
    raise UnidentifiedError(f"no rule of issuer `{issuer.issuer}` maps this token to anybody")


def _matches(value: object, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == ("true" if value else "false")
    if isinstance(value, list):
        return wanted in [one for one in value if isinstance(one, str)]
    return isinstance(value, str) and value == wanted


def _filled(person: str, claims: Mapping[str, Any]) -> str:
    parts = []
    for text, name, _, _ in string.Formatter().parse(person):
        parts.append(text)
        if name is None:
            continue
        value = claims.get(name)
        if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
            raise UnidentifiedError(f"the token has no usable claim `{name}` to name the person by")
        # An address that its own issuer has not verified is anybody's to claim.
        if name == "email" and claims.get("email_verified") is False:
            raise UnidentifiedError("the token's email address is not verified")
        parts.append(value)
    name = "".join(parts)
    if len(name) > _MAX_PERSON:
        raise UnidentifiedError("the person's name is too long")
    return name


def _check(issuer: Issuer) -> None:
    require_https(issuer.issuer, "the issuer")
    if not issuer.audience:
        raise ConfigError(f"issuer `{issuer.issuer}` needs an audience")
    if not issuer.algorithms or not issuer.algorithms <= jose.ALGORITHMS:
        raise ConfigError(f"issuer `{issuer.issuer}` has algorithms that remit does not accept")
    for rule in issuer.rules:
        if not rule.claims:
            raise ConfigError(f"a rule of issuer `{issuer.issuer}` matches every token")
        if (rule.agent is None) == (rule.person is None):
            raise ConfigError(
                f"a rule of issuer `{issuer.issuer}` takes either an agent or a person"
            )
        if rule.person is not None:
            _check_person(rule.person, issuer.issuer)


def _check_person(person: str, issuer: str) -> None:
    try:
        fields = list(string.Formatter().parse(person))
    except ValueError as error:
        raise ConfigError(f"a rule of issuer `{issuer}` has unbalanced braces") from error
    for _, name, spec, conversion in fields:
        if name is not None and (spec or conversion or not _PLACEHOLDER.match(name)):
            raise ConfigError(f"a rule of issuer `{issuer}` names a person by `{person}`")
