"""Whether a caller holds the key it speaks with (RFC 9449): each proof is checked, and good once.

The rules it enforces, in the order of section 4.3:

1. one ``DPoP`` header, one compact JWS, typed ``dpop+jwt``, asymmetric;
2. its ``jwk`` is a public key, strong enough, and the signature holds under it;
3. ``htm`` and ``htu`` are this request's. The address comes from the configuration and the request's
   path: a Host header is the sender's word;
4. ``iat`` is at most ``MAX_AGE_SECONDS`` old and ``MAX_AHEAD_SECONDS`` ahead;
5. ``ath`` is the hash of the token in ``Authorization``;
6. its ``jti`` was not used before under that key.

What was used is remembered for as long as rule 4 lets it live, in bounded memory: where that is
full, or one workload's share of it, further proofs are refused, and no used one is forgotten. What
was used before a restart is not remembered, so a proof that could be from then is refused.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from remit.identity import jose
from remit.identity.jose import ALGORITHMS
from remit.model.errors import ConfigError, UnidentifiedError
from remit.model.subject import Possession
from remit.proof.dpop import PROOF_TYP, address, thumbprint, token_hash

MAX_AGE_SECONDS = 30
"""How old a proof may be: as far as a sender's clock may be behind ours."""
MAX_AHEAD_SECONDS = 2
"""How far ahead a proof may be dated. After a restart, proofs are refused for as long."""
MAX_PROOF_BYTES = 8192
MAX_REMEMBERED = 200_000
MAX_REMEMBERED_EACH = 50_000
"""Of one workload: 1,500 requests a second, as long as they are remembered."""
_MAX_JTI = 256
_SHOWN = 256


class InvalidProofError(UnidentifiedError):
    """The proof of possession is not there, does not hold, or was used before."""

    code = "invalid_dpop_proof"


@dataclass(frozen=True, slots=True)
class Shown:
    """A proof that holds, not yet used: whose key, which proof, and when it was made."""

    key: str
    id: bytes
    made_at: float


class Proofs:
    """Checks proofs for an authority that clients reach at ``url``, and remembers the used ones."""

    def __init__(
        self,
        *,
        url: str,
        clock: Callable[[], datetime],
        since: datetime | None = None,
        limit: int = MAX_REMEMBERED,
        limit_each: int = MAX_REMEMBERED_EACH,
    ) -> None:
        """Begin with nothing used.

        Args:
            url: the configured address of the authority, without a path of its own or with the one
                that stands before every route.
            clock: the present time, aware.
            since: when the process began, where another one may have run before it.
            limit: how many used proofs are remembered.
            limit_each: how many of one caller.

        Raises:
            ConfigError: ``url`` is none that a client could send a request to.
        """
        try:
            self._url = address(url).rstrip("/")
        except ValueError as error:
            raise ConfigError(f"`url`: `{url}` cannot be remit's address: {error}") from error
        self._clock = clock
        self._limit = limit
        self._limit_each = limit_each
        self._used: set[bytes] = set()
        self._ends: list[tuple[float, bytes, str]] = []
        self._shares: Counter[str] = Counter()
        self._oldest = 0.0 if since is None else since.timestamp() + MAX_AHEAD_SECONDS

    def read(self, possession: Possession, token: str | None) -> Shown | None:
        """Return the key that a request's proof shows, or None where it brought no proof.

        Args:
            possession: the headers, and the request they came with.
            token: what was presented in ``Authorization``; None where nothing was.

        Raises:
            InvalidProofError: there is a proof and it does not hold.
        """
        if not possession.proofs:
            return None
        if len(possession.proofs) > 1:
            raise InvalidProofError("there is more than one proof of possession: send one")
        parsed = _parse(possession.proofs[0])
        key = _key_of(parsed)
        claims = _read(parsed.claims)
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= _MAX_JTI:
            raise InvalidProofError("the proof of possession has no `jti`, or a long one")
        if claims.get("htm") != possession.method:
            raise InvalidProofError(
                f"the proof of possession is not for the method `{possession.method}`"
            )
        self._require_address(claims.get("htu"), possession.path)
        made_at = claims.get("iat")
        if isinstance(made_at, bool) or not isinstance(made_at, int | float):
            raise InvalidProofError("the proof of possession does not say when it was made (`iat`)")
        self._require_fresh(made_at)
        _require_hash(claims, token)
        used = hashlib.sha256(f"{key} {jti}".encode("utf-8", "surrogatepass")).digest()
        return Shown(key, used, float(made_at))

    def use(self, shown: Shown, by: str) -> None:
        """Take a proof, once: nothing is awaited between the look and the mark.

        Args:
            shown: what :meth:`read` returned.
            by: the workload or person it was shown by, who is known by now.

        Raises:
            InvalidProofError: it was used before or is too old by now, or no more can be kept.
        """
        self._forget()
        self._require_fresh(shown.made_at)
        if shown.id in self._used:
            raise InvalidProofError("the proof of possession was used before: make one a request")
        if len(self._used) >= self._limit or self._shares[by] >= self._limit_each:
            raise InvalidProofError(
                "too many proofs of possession came in a short time: wait, and make another"
            )
        self._used.add(shown.id)
        self._shares[by] += 1
        heapq.heappush(self._ends, (shown.made_at, shown.id, by))

    def __len__(self) -> int:
        return len(self._used)

    def _forget(self) -> None:
        """Forget what could not be used again anyway; a clock that jumps back brings none back."""
        self._oldest = max(self._oldest, self._clock().timestamp() - MAX_AGE_SECONDS)
        while self._ends and self._ends[0][0] < self._oldest:
            _, used, by = heapq.heappop(self._ends)
            self._used.discard(used)
            self._shares[by] -= 1
            if not self._shares[by]:
                del self._shares[by]

    def _require_fresh(self, made_at: float) -> None:
        now = self._clock().timestamp()
        if made_at > now + MAX_AHEAD_SECONDS:
            raise InvalidProofError(
                "the proof of possession is dated ahead of remit's clock: set the sender's"
            )
        if not made_at >= now - MAX_AGE_SECONDS:
            raise InvalidProofError("the proof of possession is too old: make one a request")
        if made_at < self._oldest:
            raise InvalidProofError(
                "the proof of possession may be from before remit was started: make another"
            )

    def _require_address(self, htu: object, path: str) -> None:
        expected = address(f"{self._url}{quote(path, errors='replace')}")
        try:
            right = isinstance(htu, str) and address(htu) == expected
        except ValueError as error:
            raise InvalidProofError(
                "the proof of possession's `htu` is not an address without query and fragment"
            ) from error
        if not right:
            raise InvalidProofError(
                "the proof of possession is for another address: remit's is "
                f"`{expected if len(expected) <= _SHOWN else f'{expected[:_SHOWN]}…'}`"
            )


def challenge(error: UnidentifiedError, *more: str, invalid: bool = False) -> str:
    """Return the ``WWW-Authenticate`` value of a 401 (RFC 6750 section 3, RFC 9449 section 7.1).

    Args:
        error: why.
        more: further parameters.
        invalid: whether a token was there at all.
    """
    if isinstance(error, InvalidProofError):
        algs = f'algs="{" ".join(sorted(ALGORITHMS))}"'
        return "DPoP " + ", ".join((f'error="{error.code}"', algs, *more))
    told = ('error="invalid_token"',) if invalid else ()
    return " ".join(("Bearer", ", ".join((*told, *more)))).rstrip()


def _parse(proof: str) -> jose.Unverified:
    if len(proof) > MAX_PROOF_BYTES:
        raise InvalidProofError(f"the proof of possession is longer than {MAX_PROOF_BYTES} bytes")
    try:
        parsed = jose.parse(proof)
    except UnidentifiedError as error:
        raise InvalidProofError(f"the proof of possession is malformed: {error}") from error
    if parsed.header.get("typ") != PROOF_TYP:
        raise InvalidProofError(f"the proof of possession is not of type `{PROOF_TYP}`")
    return parsed


def _key_of(parsed: jose.Unverified) -> str:
    """Return the thumbprint of the key in the header, under which the proof is signed."""
    jwk = parsed.header.get("jwk")
    if not isinstance(jwk, dict):
        raise InvalidProofError("the proof of possession has no public key (`jwk`) in its header")
    try:
        key, named = _imported(json.dumps(jwk))
    except (ValueError, RecursionError) as error:
        raise InvalidProofError(f"the proof of possession's key is refused: {error}") from error
    try:
        jose.verify_signature(parsed, key)
    except UnidentifiedError as error:
        raise InvalidProofError(f"the proof of possession does not hold: {error}") from error
    return named


@lru_cache(maxsize=1024)
def _imported(text: str) -> tuple[jose.PublicKey, str]:
    """Return a key and its thumbprint; kept, as a sender uses one key for many requests."""
    jwk = json.loads(text)
    return jose.import_key({**jwk, "kid": "jwk"}), thumbprint(jwk)


def _read(claims: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return claims()
    except UnidentifiedError as error:
        raise InvalidProofError(f"the proof of possession is malformed: {error}") from error


def _require_hash(claims: Mapping[str, Any], token: str | None) -> None:
    said = claims.get("ath")
    if token is None:
        if said is not None:
            raise InvalidProofError("the proof of possession is for a token that was not sent")
        return
    if not isinstance(said, str):
        raise InvalidProofError("the proof of possession does not say for which token (`ath`)")
    if not hmac.compare_digest(said.encode("utf-8", "surrogatepass"), token_hash(token).encode()):
        raise InvalidProofError("the proof of possession is for another token")
