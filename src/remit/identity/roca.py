"""The ROCA fingerprint (CVE-2017-15361): RSA keys whose primes a flawed library chose.

Such a modulus is a power of 65537 modulo each of many small primes, which a sound one is with a
chance of about 2^-154 (Nemec et al., CCS 2017, section 2).
"""

from __future__ import annotations

_GENERATOR = 65537
_LAST_PRIME = 167


def is_roca(modulus: int) -> bool:
    """Return whether an RSA modulus carries the fingerprint."""
    return all(modulus % prime in powers for prime, powers in _POWERS)


def _powers(prime: int) -> frozenset[int]:
    found, value = set(), 1
    while value not in found:
        found.add(value)
        value = value * _GENERATOR % prime
    return frozenset(found)


_POWERS = tuple(
    (prime, _powers(prime))
    for prime in range(3, _LAST_PRIME + 1, 2)
    if all(prime % divisor for divisor in range(3, prime, 2))
)
