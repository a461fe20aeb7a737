"""A real Keycloak for tests: on loopback, with a database of its own, and gone afterwards.

with keycloak_server() as server:
    realm = server.realm(issuer, jwks_url, client_jwks)
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, Started, free_port, running

REQUIRED = "REMIT_REQUIRE_REAL"
FOLDER = ROOT / ".cache/real/keycloak"
START_SECONDS = 240.0
PERSON = "user:ada@corp.example"
CLIENT, BRIEF, UNTOLD = "remit-gateway", "remit-brief", "remit-untold"
FEDERATED, WORKLOAD = "remit-federated", "remit-workload"
BRIEF_SECONDS = 10
PASSWORD = "only-for-tests"
"""The administrator's, as .ci/real.d/keycloak lays it down."""


def home() -> Path:
    """Return where the server is; skip the test where it is not here."""
    found = sorted(FOLDER.glob("keycloak-*/bin/kc.sh"))
    if found and (FOLDER / "built").exists():
        return found[-1].parents[1]
    reason = "Keycloak is not installed: run .ci/real.d/keycloak"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Realm:
    """One realm that trusts Remit as an identity provider and has it registered as a client."""

    server: Server
    name: str

    @property
    def issuer(self) -> str:
        return f"{self.server.url}/realms/{self.name}"

    def endpoint(self, name: str) -> str:
        return f"{self.issuer}/protocol/openid-connect/{name}"

    def userinfo(self, authorization: str, proof: str | None = None) -> int:
        """Use a token for real at an endpoint that is protected by it; return the status."""
        headers = {"Authorization": authorization, **({"DPoP": proof} if proof else {})}
        return self.server.ask("GET", self.endpoint("userinfo"), headers=headers)[0]


@dataclass
class Server:
    """One running server, and its administrator's word."""

    url: str
    process: Started

    def stop(self) -> None:
        """Let it answer nothing any more: it keeps its connections, and what it is sent waits."""
        os.killpg(self.process.popen.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again, what it was sent meanwhile too."""
        os.killpg(self.process.popen.pid, signal.SIGCONT)

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        body: object = None,
        form: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Make one request; return status and JSON, or None."""
        headers, data = dict(headers or {}), None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        if form is not None:
            data = urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, said = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, said = error.code, error.read()
        try:
            return status, json.loads(said)
        except ValueError:
            return status, None

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """Make one request of the administrator's."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin"}
        token = self.ask(
            "POST",
            f"{self.url}/realms/master/protocol/openid-connect/token",
            form={**form, "password": PASSWORD},
        )[1]["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        status, said = self.ask(method, f"{self.url}/admin{path}", headers=headers, body=body)
        assert status < 300, (status, said)
        return said

    def realm(
        self, issuer: str, jwks_url: str, client_jwks: str, *, trust_domain: str, bundle_url: str
    ) -> Realm:
        """Make a realm, as docs/brokers/oauth.md tells an operator to.

        Beside the client as it should be there is BRIEF, whose tokens live for seconds, UNTOLD, which
        Keycloak tells nothing about its own tokens, FEDERATED, which has no key but Remit's word, and
        WORKLOAD, which shows an SVID of Remit's trust domain.
        """
        name = f"r{secrets.token_hex(4)}"
        provider = {
            "issuer": issuer,
            "clientId": CLIENT,
            "clientSecret": "unused",
            "clientAuthMethod": "client_secret_post",
            "authorizationUrl": f"{issuer}/none",
            "tokenUrl": f"{issuer}/none",
            "useJwksUrl": "true",
            "jwksUrl": jwks_url,
            "validateSignature": "true",
            "disableUserInfo": "true",
            "jwtAuthorizationGrantEnabled": "true",
            "supportsClientAssertions": "true",
        }

        def client(
            called: str, *, told: bool = True, shown: str = "client-jwt", **attributes: str
        ) -> dict[str, Any]:
            mapper = {
                # Keycloak tells a client about a token only where the token is made out for it.
                "name": "remit is told",
                "protocol": "openid-connect",
                "protocolMapper": "oidc-audience-mapper",
                "config": {"included.client.audience": called, "access.token.claim": "true"},
            }
            return {
                "clientId": called,
                "clientAuthenticatorType": shown,
                "serviceAccountsEnabled": True,
                "standardFlowEnabled": False,
                "directAccessGrantsEnabled": False,
                "attributes": {
                    "use.jwks.string": "true",
                    "jwks.string": client_jwks,
                    "token.endpoint.auth.signing.alg": "ES256",
                    "oauth2.jwt.authorization.grant.enabled": "true",
                    "oauth2.jwt.authorization.grant.idp": "remit",
                    **attributes,
                },
                "protocolMappers": [mapper] if told else [],
            }

        self.admin(
            "POST",
            "/realms",
            {
                "realm": name,
                "enabled": True,
                "accessTokenLifespan": 120,
                "identityProviders": [
                    {"alias": "remit", "providerId": "oidc", "enabled": True, "config": provider},
                    {
                        "alias": "workloads",
                        "providerId": "spiffe",
                        "enabled": True,
                        "config": {
                            "trustDomain": f"spiffe://{trust_domain}",
                            "bundleEndpoint": bundle_url,
                        },
                    },
                ],
                "users": [
                    {
                        "username": "ada",
                        "enabled": True,
                        "email": "ada@corp.example",
                        "emailVerified": True,
                        "firstName": "Ada",
                        "lastName": "Lovelace",
                        "federatedIdentities": [
                            {"identityProvider": "remit", "userId": PERSON, "userName": PERSON}
                        ],
                    }
                ],
                "clients": [
                    client(CLIENT),
                    client(BRIEF, **{"access.token.lifespan": str(BRIEF_SECONDS)}),
                    client(UNTOLD, told=False),
                    client(
                        FEDERATED,
                        shown="federated-jwt",
                        **{"jwt.credential.issuer": "remit", "jwt.credential.sub": FEDERATED},
                    ),
                    client(
                        WORKLOAD,
                        shown="federated-jwt",
                        **{
                            "jwt.credential.issuer": "workloads",
                            "jwt.credential.sub": f"spiffe://{trust_domain}/broker/as",
                        },
                    ),
                ],
            },
        )
        return Realm(self, name)

    def permit_exchange(self, realm: Realm) -> None:
        """Let the client exchange tokens of the identity provider `remit` (RFC 8693)."""
        at = f"/realms/{realm.name}"
        managed = self.admin(
            "PUT",
            f"{at}/identity-provider/instances/remit/management/permissions",
            {"enabled": True},
        )
        ids = {
            name: self.admin("GET", f"{at}/clients?clientId={name}")[0]["id"]
            for name in (CLIENT, "realm-management")
        }
        authz = f"{at}/clients/{ids['realm-management']}/authz/resource-server"
        policy = self.admin(
            "POST",
            f"{authz}/policy/client",
            {"name": "remit may", "clients": [ids[CLIENT]], "logic": "POSITIVE"},
        )
        permission = managed["scopePermissions"]["token-exchange"]
        there = f"{authz}/permission/scope/{permission}"
        self.admin("PUT", there, {**self.admin("GET", there), "policies": [policy["id"]]})


@contextlib.contextmanager
def keycloak_server() -> Iterator[Server]:
    """Run a server while the block runs; it takes half a minute to start."""
    there, port = home(), free_port()
    with tempfile.TemporaryDirectory(prefix="remit-keycloak-") as folder:
        shutil.copytree(FOLDER / "database", Path(folder) / "database")
        command: list[str | Path] = [
            there / "bin/kc.sh", "start", "--optimized", "--cache=local", "--http-enabled=true",
            "--http-host=127.0.0.1", f"--http-port={port}", "--hostname-strict=false",
            "--log-level=warn",
            f"--db-url=jdbc:h2:file:{folder}/database/keycloak;NON_KEYWORDS=VALUE",
        ]  # fmt: skip
        env = {"JAVA_OPTS": "-Xms64m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"}
        log = Path(folder) / "log"
        with running(command, log=log, env=env, cwd=Path(folder)) as started:
            server = Server(f"http://127.0.0.1:{port}", started)

            def ready() -> bool:
                with contextlib.suppress(OSError):
                    return server.ask("GET", f"{server.url}/realms/master")[0] == 200
                return False

            started.wait_for(ready, "keycloak", START_SECONDS)
            try:
                yield server
            finally:
                server.go_on()
