"""Computes the other key that an ES256 signature verifies under (SEC 1, section 4.1.6)."""

import base64
import hashlib

from packs import jwk

from remit.proof.jws import Jwk

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
A = P - 3
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Point = tuple[int, int] | None


def _add(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return one or other
    if one[0] == other[0] and (one[1] + other[1]) % P == 0:
        return None
    if one == other:
        slope = (3 * one[0] ** 2 + A) * pow(2 * one[1], -1, P)
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, P)
    x = (slope**2 - one[0] - other[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def _times(factor: int, point: Point) -> Point:
    found: Point = None
    for bit in f"{factor:b}":
        found = _add(found, found)
        if bit == "1":
            found = _add(found, point)
    return found


def recovered(token: str) -> list[Jwk]:
    """Return the keys that an ES256 signature verifies under, all by the mandate key's name."""
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    e = int.from_bytes(hashlib.sha256(signed.encode()).digest())
    y = pow(r**3 + A * r + B, (P + 1) // 4, P)
    keys = []
    for each in (y, P - y):
        whole = _add(_times(s, (r, each)), _times(N - e % N, G))
        point = _times(pow(r, -1, N), whole)
        assert point is not None
        x, y_text = (
            base64.urlsafe_b64encode(part.to_bytes(32)).rstrip(b"=").decode() for part in point
        )
        keys.append(Jwk(kid=jwk().kid, x=x, y=y_text))
    return keys
