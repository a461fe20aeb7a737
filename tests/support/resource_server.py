"""A resource server that trusts an issuer: a process of its own, with PyJWT and nothing of Remit.

resource_server.py PORT ISSUER AUDIENCE MODE [FILE [FOLDER AUTHORITY]]

MODE is ``offline``, ``introspect`` (FILE holds what it shows itself by), ``dpop``, or ``mtls``: under
TLS, with the certificate in FOLDER, it asks for client certificates that AUTHORITY (PEM) signed, looks
whether the token is bound to the one that is shown, and introspects. It discovers the keys (RFC 8414), takes RFC 9068 access tokens for its audience, and answers 401 to everything else.
``POST /clock`` with a number moves its clock.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import sys
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import jwt

REQUIRED = ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"]


class RefusedError(Exception):
    pass


class Resource:
    def __init__(self, issuer: str, audience: str, mode: str, file: str | None) -> None:
        self.issuer, self.audience, self.mode, self.file = issuer, audience, mode, file
        self.ahead = 0.0
        self.proofs: set[str] = set()
        at = f"{issuer}/.well-known/oauth-authorization-server"
        with urllib.request.urlopen(at, timeout=5) as answer:
            self.metadata: dict[str, Any] = json.load(answer)
        assert self.metadata["issuer"] == issuer
        # An unknown key is looked for at once; by default PyJWT waits for half a minute.
        self.keys = jwt.PyJWKClient(self.metadata["jwks_uri"], lifespan=300, cooldown_duration=0)

    def take(
        self, header: str, proof: str | None, method: str, url: str, shown: bytes | None
    ) -> dict[str, Any]:
        scheme, _, token = header.partition(" ")
        claims = self._claims(token)
        bound = claims.get("cnf", {}).get("jkt")
        if bound is not None or self.mode == "dpop":
            if scheme != "DPoP" or bound is None:
                raise RefusedError("this token has to be bound, and shown as DPoP")
            self._prove(proof, bound, token, method, url)
        elif scheme != "Bearer":
            raise RefusedError("not a bearer token")
        if self.mode in {"introspect", "mtls"}:
            said = self._introspect(token)
            if said.get("cnf") != claims.get("cnf"):
                raise RefusedError("the issuer tells of another key")
        wanted = claims.get("cnf", {}).get("x5t#S256")
        # RFC 8705 section 3: of the certificate that this very connection was made with.
        found = None if shown is None else _base64url(hashlib.sha256(shown).digest())
        if (wanted is not None or self.mode == "mtls") and (found is None or found != wanted):
            raise RefusedError("the token is not bound to the certificate that is shown")
        return claims

    def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        if header.get("typ") != "at+jwt":
            raise RefusedError("not an access token")
        claims: dict[str, Any] = jwt.decode(
            token,
            self.keys.get_signing_key_from_jwt(token),
            algorithms=["ES256"],
            audience=self.audience,
            issuer=self.issuer,
            options={"require": REQUIRED, "verify_exp": False, "verify_iat": False},
        )
        if claims["exp"] <= time.time() + self.ahead:
            raise RefusedError("expired")
        return claims

    def _prove(self, proof: str | None, bound: str, token: str, method: str, url: str) -> None:
        if proof is None:
            raise RefusedError("no proof")
        header = jwt.get_unverified_header(proof)
        jwk = header["jwk"]
        if header.get("typ") != "dpop+jwt" or "d" in jwk:
            raise RefusedError("not a proof")
        said = jwt.decode(proof, jwt.PyJWK(jwk), algorithms=["ES256"])
        members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
        text = json.dumps(members, separators=(",", ":"), sort_keys=True)
        hashed = _base64url(hashlib.sha256(token.encode()).digest())
        right = (
            _base64url(hashlib.sha256(text.encode()).digest()) == bound
            and (said["htm"], said["htu"], said["ath"]) == (method, url, hashed)
            and abs(said["iat"] - time.time()) < 60
        )
        if not right or said["jti"] in self.proofs:
            raise RefusedError("the proof does not hold")
        self.proofs.add(said["jti"])

    def _introspect(self, token: str) -> dict[str, Any]:
        own = Path(self.file or "").read_text().strip()
        request = urllib.request.Request(
            self.metadata["introspection_endpoint"],
            data=urllib.parse.urlencode({"token": token}).encode(),
            headers={"Authorization": f"Bearer {own}"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            said: dict[str, Any] = json.load(answer)
        if said.get("active") is not True or said.get("aud") != self.audience:
            raise RefusedError("not active")
        return said


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Handler(BaseHTTPRequestHandler):
    resource: ClassVar[Resource]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = f"http://{self.headers['Host']}{self.path}"
        tls, shown = self.connection, None
        if isinstance(tls, ssl.SSLSocket):
            shown = tls.getpeercert(binary_form=True)
        try:
            claims = self.resource.take(
                self.headers.get("Authorization", ""), self.headers.get("DPoP"), "GET", url, shown
            )
        except (RefusedError, jwt.PyJWTError, OSError, KeyError, ValueError) as error:
            self._answer(401, {"refused": f"{type(error).__name__}: {error}"})
        else:
            self._answer(200, claims)

    def do_POST(self) -> None:
        self.resource.ahead = float(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(200, {})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
        del format, args


if __name__ == "__main__":
    port, issuer, audience, mode, *files = sys.argv[1:]
    Handler.resource = Resource(issuer, audience, mode, files[0] if files else None)
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    if mode == "mtls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(files[1], "server.crt"), Path(files[1], "server.key"))
        context.load_verify_locations(files[2])
        context.verify_mode = ssl.CERT_OPTIONAL
        # The handshake is its thread's: a client that hangs in it holds nobody up.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    server.serve_forever()
