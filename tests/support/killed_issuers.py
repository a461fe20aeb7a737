"""Targets that give what they cannot all take back, whose leasing process is killed.

Each is asked for what it gave and until when, apart from any broker: moto writes down every session,
Keycloak keeps its events, and whoever reads a signed token by itself knows its end from the token.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
from aws import ACCOUNT, REGION, aws_server
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from joserfc import jwt
from joserfc.errors import JoseError
from keycloak import CLIENT, Realm, Server, keycloak_server
from killed_targets import Target
from leases_under_load import INSTALLATION, SIGNED, Desk, FileIssuer, noted

from remit.credentials.brokers.jwt.broker import JwtBroker
from remit.credentials.brokers.oauth.key import ClientKey

_READ = {"policy": [{"Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::reports/*"]}]}
_DENIES = {
    "revoke": "session",
    "revoker_role": f"arn:aws:iam::{ACCOUNT}:role/revoker",
    "probe": True,
}


@asynccontextmanager
async def aws(folder: Path, options: Mapping[str, Any] | None = None) -> AsyncIterator[Target]:
    """A session for each lease, which runs out; or which a policy denies."""
    key = FileIssuer(folder).make()
    with aws_server(key) as server:
        root, sessions = server.client("iam"), server.folder / "sessions"
        async with aiohttp.ClientSession(trust_env=False) as http:

            async def reads(keys: list[str]) -> bool:
                url = f"{server.url}/reports/march.csv"
                request = AWSRequest(method="GET", url=url)
                S3SigV4Auth(Credentials(*keys), "s3", REGION).add_auth(request)
                headers = {str(name): str(value) for name, value in request.headers.items()}
                async with http.get(url, headers=headers) as answer:
                    said = await answer.text()
                    refused = "AccessDenied" in said or "ExpiredToken" in said
                    assert answer.status == 200 or refused, said
                    return answer.status == 200

            async def ends() -> Mapping[str, datetime]:
                text = sessions.read_bytes() if sessions.exists() else b""
                begun = [msgspec.json.decode(line) for line in text.splitlines()]
                ours = [each for each in begun if each["name"] != f"{INSTALLATION}-revoker"]
                return {
                    each["name"]: datetime.fromtimestamp(each["end"], UTC)
                    for each in ours
                    if await reads(each["keys"])
                }

            async def standing() -> set[str]:
                return set(await ends())

            async def accepts(values: Mapping[str, str]) -> bool:
                names = ("access_key_id", "secret_access_key", "session_token")
                return await reads([values[name] for name in names])

            async def down() -> None:
                server.stop()

            async def up() -> None:
                server.go_on()

            async def cleared() -> None:
                sessions.unlink(missing_ok=True)

            def forgotten() -> None:
                """Let two hours pass at AWS, after which no session needs to be denied."""
                server.ahead(7200)
                server.client("sts", server.key_id, server.key).get_caller_identity()
                server.ahead(0)
                server.enforce(on=False)
                name = f"{INSTALLATION}-over"
                if name in root.list_role_policies(RoleName="agent")["PolicyNames"]:
                    root.delete_role_policy(RoleName="agent", PolicyName=name)
                server.enforce(on=True)

            yield Target(
                grant=_READ,
                table=lambda port: {
                    "kind": "aws",
                    "role": f"arn:aws:iam::{ACCOUNT}:role/agent",
                    "region": REGION,
                    "sts_url": f"http://127.0.0.1:{port}",
                    "iam_url": f"http://127.0.0.1:{port}",
                    "timeout_seconds": 2.0,
                    **(options or {}),
                },
                port=int(server.url.rpartition(":")[2]),
                standing=standing,
                accepts=accepts,
                down=down,
                up=up,
                moved=lambda ahead: server.ahead(ahead.total_seconds()),
                ends=ends,
                cleared=cleared,
                forgotten=forgotten,
                book_lives=1,  # the policy that denies has room for some 150 sessions
                at_expiry=options is None,
            )


aws_denied = partial(aws, options=_DENIES)


_LIFESPAN = 5
"""Seconds that a token of Keycloak's lives: a test waits for the last one's end."""
_LAST = 1
"""Keycloak counts whole seconds, and takes a token all through the one that it ends in."""


def _brief_realm(server: Server, key: ClientKey) -> Realm:
    """Make a realm that keeps its events, with one client, whose tokens are brief."""
    name = f"r{secrets.token_hex(4)}"
    told = {
        "name": "remit is told",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {"included.client.audience": CLIENT, "access.token.claim": "true"},
    }
    client = {
        "clientId": CLIENT,
        "clientAuthenticatorType": "client-jwt",
        "serviceAccountsEnabled": True,
        "standardFlowEnabled": False,
        "attributes": {
            "use.jwks.string": "true",
            "jwks.string": key.published.read_text(),
            "token.endpoint.auth.signing.alg": "ES256",
            "access.token.lifespan": str(_LIFESPAN),
        },
        "protocolMappers": [told],
    }
    realm = {
        "realm": name,
        "enabled": True,
        "clients": [client],
        "eventsEnabled": True,
        "enabledEventTypes": ["CLIENT_LOGIN", "REVOKE_GRANT"],
    }
    server.admin("POST", "/realms", realm)
    return Realm(server, name)


@asynccontextmanager
async def oauth(  # noqa: C901 - one server, and the ways to ask it
    folder: Path, options: Mapping[str, Any] | None = None
) -> AsyncIterator[Target]:
    """A token for each lease, whose name Keycloak alone chooses, and which it takes back, or not."""
    key = ClientKey(folder / "client.key", "ES256")
    with keycloak_server() as server:
        realm = _brief_realm(server, key)
        at = f"/realms/{realm.name}"
        ahead, promised = timedelta(), dict[str, float]()

        def asked() -> dict[str, datetime]:
            events = server.admin("GET", f"{at}/events?max=100000")
            over = {e["details"]["token_id"] for e in events if e["type"] == "REVOKE_GRANT"}
            given = {
                # Its second may be the one after the token's: the token itself says its end.
                e["details"]["token_id"]: datetime.fromtimestamp(e["time"] / 1000 + _LIFESPAN, UTC)
                for e in events
                if e["type"] == "CLIENT_LOGIN"
            }
            now = datetime.now(UTC) + ahead
            return {name: end for name, end in given.items() if name not in over and end > now}

        def end_of(values: Mapping[str, str]) -> datetime:
            return datetime.fromtimestamp(_claims(values["token"])["exp"] + _LAST, UTC)

        def taken(token: str) -> bool:
            status = realm.userinfo(f"Bearer {token}")
            assert status in {200, 401}, status
            return status == 200

        async def accepts(values: Mapping[str, str]) -> bool:
            token = values["token"]
            if not await asyncio.to_thread(taken, token):
                return False
            end = end_of(values).timestamp()
            if end > time.time() + ahead.total_seconds():
                return True
            promised[token] = end  # nobody moves Keycloak's clock: it is tried after the last life
            return False

        async def standing() -> set[str]:
            return set(await asyncio.to_thread(asked))

        def moved(by: timedelta) -> None:
            nonlocal ahead
            ahead = by

        async def down() -> None:
            server.stop()

        async def up() -> None:
            server.go_on()

        yield Target(
            grant={"scope": ["openid"]},
            table=lambda port: {
                "kind": "oauth",
                "issuer": realm.issuer.replace(server.url, f"http://127.0.0.1:{port}"),
                "assertion_audience": realm.issuer,
                "client_id": CLIENT,
                "key_file": "client.key",
                "longest_seconds": _LIFESPAN,
                "timeout_seconds": 3.0,
                **(options or {}),
            },
            port=int(server.url.rpartition(":")[2]),
            standing=standing,
            accepts=accepts,
            down=down,
            up=up,
            moved=moved,
            ends=lambda: asyncio.to_thread(asked),
            names_are_ours=False,
            end_of=end_of,
            cleared=lambda: asyncio.to_thread(server.admin, "DELETE", f"{at}/events"),
            names_itself=True,
            at_expiry=options is not None,
        )
        await asyncio.sleep(max([0.0, *(end - time.time() for end in promised.values())]))
        for token in promised:
            assert not await asyncio.to_thread(taken, token), "a token outlived its own end"


oauth_at_expiry = partial(oauth, options={"revocation": "at_expiry"})


@asynccontextmanager
async def jwt_offline(folder: Path, *, introspected: bool = False) -> AsyncIterator[Target]:
    """A token that Remit signs for each lease; its resource reads it, and asks Remit or does not.

    ``introspected``: a resource can ask the restarted Remit alone, since the killed one is gone.
    """
    issuer = FileIssuer(folder)
    key, audience, ahead = issuer.make(), "https://crm.example/api", timedelta()
    asked: list[JwtBroker] = []

    def moved(by: timedelta) -> None:
        nonlocal ahead
        ahead = by

    def met(desk: Desk) -> None:
        asked[:] = [cast("JwtBroker", desk.broker)]

    def honours(name: str, end: float) -> bool:
        if end <= time.time() + ahead.total_seconds():
            return False
        return not introspected or any(each.active(name, "") for each in asked)

    async def ends() -> Mapping[str, datetime]:
        file = folder / SIGNED
        signed = noted(file)
        return {
            each["name"]: datetime.fromtimestamp(each["end"], UTC)
            for each in signed
            if honours(each["name"], each["end"])
        }

    async def standing() -> set[str]:
        return set(await ends())

    async def accepts(values: Mapping[str, str]) -> bool:
        try:
            claims = jwt.decode(values["token"], key, algorithms=["ES256"]).claims
        except JoseError:
            return False
        assert (claims["iss"], claims["aud"]) == (issuer.issuer, audience)
        return honours(claims["jti"], claims["exp"])

    async def cleared() -> None:
        (folder / SIGNED).unlink(missing_ok=True)

    yield Target(
        grant={"scope": ["read"]},
        table=lambda _: {"kind": "jwt", "audience": audience, "introspected": introspected},
        port=None,
        standing=standing,
        accepts=accepts,
        down=_no_target,
        up=_no_target,
        moved=moved,
        met=met,
        ends=ends,
        cleared=cleared,
        book_lives=5,  # a life mints hundreds
        at_expiry=not introspected,
        forgets=introspected,
    )


jwt_introspected = partial(jwt_offline, introspected=True)


async def _no_target() -> None:
    raise AssertionError("there is no target to be down")


def _claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    found: dict[str, Any] = msgspec.json.decode(base64.urlsafe_b64decode(body + "=="))
    return found
