"""The server of ours that stands in for a cluster answers as a real kube-apiserver does.

The same requests in the same order at both, and of each answer what a client could go by.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes_server
from kube_apiserver import NAMESPACE, Cluster
from kube_roles import making_tokens_of
from kubernetes_server import kubernetes_server as stand_in

CORE = f"/api/v1/namespaces/{NAMESPACE}"
SECRETS = f"{CORE}/secrets"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
ELSEWHERE = ["https://vault.example"]
A_UID = "11111111-2222-3333-4444-555555555555"

Ask = Callable[..., Any]


def a_secret(name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, **metadata},
        "type": "Opaque",
        "immutable": True,
    }


def a_request(seconds: int = 600, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": seconds, **spec},
    }


def bound_to(name: str, uid: str | None = None, kind: str = "Secret") -> dict[str, Any]:
    reference = {"kind": kind, "apiVersion": "v1", "name": name}
    return {"boundObjectRef": reference if uid is None else {**reference, "uid": uid}}


def a_review(token: str, audiences: list[str] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, **({"audiences": audiences} if audiences else {})},
    }


def seen(status: int, body: Any) -> dict[str, Any]:
    """Return what a client could go by: everything but names of chance, times and sentences."""
    found: dict[str, Any] = {"http": status, "kind": body.get("kind")}
    if body.get("kind") == "Status":
        details = body.get("details", {})
        found |= {key: body.get(key) for key in ("apiVersion", "status", "reason", "code")}
        found["details"] = {key: details.get(key) for key in ("kind", "name")}
    elif "items" in body:
        listed = body["items"]
        found["items"] = listed and [each["metadata"]["name"] for each in listed]
        found["more"] = bool(body["metadata"].get("continue"))
    elif body.get("kind") == "TokenReview":
        found["authenticated"] = body["status"].get("authenticated")
        found["error"] = bool(body["status"].get("error"))
        found["user"] = body["status"].get("user", {}).get("username")
        found["audiences"] = len(body["status"].get("audiences", ()))
    elif body.get("kind") == "TokenRequest":
        found["answered"] = sorted(body["status"])
        found["spec"] = sorted(body["spec"])
        found["seconds"] = body["spec"]["expirationSeconds"]
        found["audiences"] = len(body["spec"]["audiences"])
    else:
        found["metadata"] = {
            key: body["metadata"].get(key) for key in ("name", "labels", "annotations")
        }
        found["uid"] = len(body["metadata"]["uid"])
        found["deleting"] = "deletionTimestamp" in body["metadata"]
    return found


async def everything(ask: Ask, keep: Callable[[bool], Any]) -> dict[str, dict[str, Any]]:
    """Ask all that the broker asks, and what it could run into."""
    answers: dict[str, dict[str, Any]] = {}

    async def asked(what: str, method: str, path: str, *given: Any, **options: Any) -> Any:
        assert what not in answers
        status, body = await ask(method, path, *given, **options)
        answers[what] = seen(status, body)
        return body

    def tokens(account: str) -> str:
        return f"{CORE}/serviceaccounts/{account}/token"

    labels = {"remit.dev/installation": "remit-ffff0000"}
    secret = a_secret("one", labels=labels, annotations={"remit.dev/lease": "lease_1"})
    made = await asked("a secret", "POST", SECRETS, secret, accept=METADATA)
    uid = made["metadata"]["uid"]
    await asked("it again", "POST", SECRETS, secret, accept=METADATA)
    await asked("a name that is none", "POST", SECRETS, a_secret("One_"), accept=METADATA)
    wrong = a_secret("two", labels={"remit.dev/installation": "x" * 64})
    await asked("a label that is too long", "POST", SECRETS, wrong, accept=METADATA)
    await asked("look for it", "GET", f"{SECRETS}/one", accept=METADATA)
    await asked("look for none", "GET", f"{SECRETS}/none", accept=METADATA)
    await ask("POST", SECRETS, a_secret("two", labels=labels), accept=METADATA)
    query = "labelSelector=remit.dev%2Finstallation%3Dremit-ffff0000"
    await asked("all", "GET", f"{SECRETS}?{query}&limit=500", accept=LIST)
    nobodys = query.replace("ffff", "eeee")
    await asked("nobody's", "GET", f"{SECRETS}?{nobodys}&limit=500", accept=LIST)

    good = a_request(**bound_to("one", uid))
    token = (await asked("a token", "POST", tokens("deployer"), good))["status"]["token"]
    await asked("of nobody", "POST", tokens("named"), good)
    await asked("too short", "POST", tokens("deployer"), a_request(599, **bound_to("one", uid)))
    far = a_request(2**32 + 1, **bound_to("one", uid))
    await asked("too long", "POST", tokens("deployer"), far)
    await asked("bound to none", "POST", tokens("deployer"), a_request(**bound_to("none", uid)))
    await asked("of another uid", "POST", tokens("deployer"), a_request(**bound_to("one", A_UID)))
    by_kind = a_request(**bound_to("one", uid, "ConfigMap"))
    await asked("to a config map", "POST", tokens("deployer"), by_kind)
    away = a_request(audiences=ELSEWHERE, **bound_to("two"))
    other = (await asked("for elsewhere", "POST", tokens("deployer"), away))["status"]["token"]

    await asked("reviewed", "POST", REVIEWS, a_review(token))
    await asked("reviewed elsewhere", "POST", REVIEWS, a_review(token, ELSEWHERE))
    await asked("elsewhere's", "POST", REVIEWS, a_review(other, ELSEWHERE))
    await asked("elsewhere's here", "POST", REVIEWS, a_review(other))
    await asked("no token at all", "POST", REVIEWS, a_review("nonsense"))

    await asked("nobody", "GET", f"{SECRETS}/one", accept=METADATA, bearer="")
    await asked("nonsense", "GET", f"{SECRETS}/one", accept=METADATA, bearer="nonsense")

    await asked("delete", "DELETE", f"{SECRETS}/one", accept=METADATA)
    await asked("delete again", "DELETE", f"{SECRETS}/one", accept=METADATA)
    await keep(True)
    await asked("delete what is kept", "DELETE", f"{SECRETS}/two", accept=METADATA)
    await asked("and look for it", "GET", f"{SECRETS}/two", accept=METADATA)
    await asked("and delete it again", "DELETE", f"{SECRETS}/two", accept=METADATA)
    await keep(False)
    await asked("and gone", "GET", f"{SECRETS}/two", accept=METADATA)
    return answers


async def at_a_cluster(cluster: Cluster, folder: Path) -> dict[str, dict[str, Any]]:
    own = cluster.remits_token(folder).read_text().strip()

    async def ask(
        method: str,
        path: str,
        body: Any = None,
        *,
        accept: str = "application/json",
        bearer: str | None = None,
    ) -> tuple[int, Mapping[str, Any]]:
        token = own if bearer is None else bearer
        answer = await asyncio.to_thread(
            cluster.ask, method, path, body, token=token, headers={"Accept": accept}
        )
        return answer.status, answer.body

    async def keep(kept: bool) -> None:
        finalizers = {"metadata": {"finalizers": ["remit.test/kept"] if kept else None}}
        assert cluster.ask("PATCH", f"{SECRETS}/two", finalizers).status == 200

    with making_tokens_of(cluster, "named"):
        return await everything(ask, keep)


async def at_ours() -> dict[str, dict[str, Any]]:
    async with stand_in() as server, aiohttp.ClientSession(trust_env=False) as http:

        async def ask(
            method: str,
            path: str,
            body: Any = None,
            *,
            accept: str = "application/json",
            bearer: str | None = None,
        ) -> tuple[int, Mapping[str, Any]]:
            token = server.admin if bearer is None else bearer
            headers = {"Accept": accept, "Authorization": f"Bearer {token}"}
            async with http.request(
                method, server.url + path, json=body, headers=headers
            ) as answer:
                return answer.status, await answer.json()

        async def keep(kept: bool) -> None:
            if kept:
                server.finalizers = True
            else:
                server.finalizers = False
                del server.secrets["two"]

        return await everything(ask, keep)


async def test_ours_answers_as_the_real_one(cluster: Cluster, tmp_path: Path):
    assert kubernetes_server.NAMESPACE == NAMESPACE
    try:
        real = await at_a_cluster(cluster, tmp_path)
    finally:
        cluster.clear()
    ours = await at_ours()
    differing = {
        what: {"real": real[what], "ours": ours.get(what)}
        for what in real
        if real[what] != ours.get(what)
    }
    assert not differing, json.dumps(differing, indent=1)
    assert len(real) > 25
