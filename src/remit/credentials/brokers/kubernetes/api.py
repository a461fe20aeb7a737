"""The five requests to a Kubernetes API server that a lease needs.

A secret is never read: of it only the metadata is asked for. Of an answer that is no success its
status and reason are told, never its message.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from remit.credentials.answers import Target
from remit.credentials.brokers.kubernetes.options import Options
from remit.model.errors import BrokerError, NotMintedError

LABEL = "remit.dev/installation"
_MOST_BYTES = 4 * 1024 * 1024
_PAGE = 500
_MOST_PAGES = 200
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_HINTS = {
    401: "look at remit's own token",
    403: "look at the role of remit's own service account",
    404: "look at `namespace` and `service_account`",
    422: "look at the grant",
}


class Api:
    """Asks one API server as Remit, in one namespace."""

    def __init__(
        self,
        options: Options,
        *,
        http: aiohttp.ClientSession,
        token: Callable[[], str],
        tls: ssl.SSLContext | bool,
    ) -> None:
        """``token`` reads Remit's own token, anew each time: Kubernetes rotates it."""
        self._target = Target(
            name="kubernetes: the API server",
            http=http,
            seconds=options.timeout_seconds,
            most_bytes=_MOST_BYTES,
            tls=tls,
        )
        self._token = token
        self._base = options.url.rstrip("/")
        self._secrets = f"/api/v1/namespaces/{options.namespace}/secrets"
        self._accounts = f"/api/v1/namespaces/{options.namespace}/serviceaccounts"

    async def make_anchor(
        self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str]
    ) -> str:
        """Create the empty secret that a token is bound to; return its uid.

        Raises:
            NotMintedError: the API server refused, or was not reached.
            BrokerError: it failed, and the secret may be there.
        """
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "type": "Opaque",
            "immutable": True,
        }
        status, answer = await self._ask("POST", self._secrets, body, accept=_METADATA)
        if status != 201:  # noqa: PLR2004 - Created
            raise _refused("making a secret", status, answer)
        uid = _get(answer, "metadata", "uid")
        if not isinstance(uid, str) or not uid:
            raise BrokerError("kubernetes: a secret was answered with something else")
        return uid

    async def make_token(
        self, account: str, name: str, uid: str, audiences: list[str], seconds: int
    ) -> tuple[str, datetime]:
        """Make a token of a service account that is bound to a secret; return it and its expiry.

        Raises:
            NotMintedError: the API server refused.
            BrokerError: it failed, and a token may have been made.
        """
        reference = {"kind": "Secret", "apiVersion": "v1", "name": name, "uid": uid}
        spec: dict[str, Any] = {"expirationSeconds": seconds, "boundObjectRef": reference}
        if audiences:
            spec["audiences"] = audiences
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"{self._accounts}/{quote(account, safe='')}/token"
        status, answer = await self._ask("POST", path, body)
        if status != 201:  # noqa: PLR2004 - Created
            raise _refused("making a token", status, answer)
        token = _get(answer, "status", "token")
        bound = _get(answer, "spec", "boundObjectRef", "uid")
        try:
            expires_at = datetime.fromisoformat(_get(answer, "status", "expirationTimestamp"))
        except (TypeError, ValueError):
            expires_at = None
        if not isinstance(token, str) or not token or expires_at is None or not expires_at.tzinfo:
            raise BrokerError("kubernetes: a token was answered with something else")
        if bound != uid:
            raise BrokerError("kubernetes: a token was made that is not bound to its secret")
        return token, expires_at

    async def remove_anchor(self, name: str) -> None:
        """Delete a secret, and see that it is gone.

        Raises:
            BrokerError: it is there, or nobody said that it is not.
        """
        path = f"{self._secrets}/{quote(name, safe='')}"
        status, answer = await self._ask("DELETE", path, accept=_METADATA)
        if status not in {200, 202} and not _is_gone(status, answer, name):
            raise _failed("deleting a secret", status, answer)
        status, answer = await self._ask("GET", path, accept=_METADATA)
        if status == 200:  # noqa: PLR2004 - OK
            raise BrokerError("kubernetes: a deleted secret is still there: look at its finalizers")
        if not _is_gone(status, answer, name):
            raise _failed("looking for a secret", status, answer)

    async def anchors(self, installation: str) -> frozenset[str]:
        """List the secrets of this installation by their label.

        Raises:
            BrokerError: the API server did not list them all.
        """
        found: set[str] = set()
        query = {"labelSelector": f"{LABEL}={installation}", "limit": str(_PAGE)}
        for _ in range(_MOST_PAGES):
            path = f"{self._secrets}?{urlencode(query)}"
            status, answer = await self._ask("GET", path, accept=_METADATA_LIST)
            items = _items(answer)
            if status != 200 or items is None:  # noqa: PLR2004 - OK
                raise _failed("listing secrets", status, answer)
            found.update(str(_get(each, "metadata", "name")) for each in items)
            more = _get(answer, "metadata", "continue")
            if not more:
                return frozenset(found)
            query["continue"] = str(more)
        raise BrokerError("kubernetes: there is no end to its list of secrets")

    async def accepts(self, token: str, audiences: list[str]) -> bool:
        """Ask whether a token is good (TokenReview).

        Raises:
            BrokerError: the API server did not say.
        """
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = audiences
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        status, answer = await self._ask("POST", path, body)
        said = _get(answer, "status")
        if status not in {200, 201} or not isinstance(said, Mapping):
            raise _failed("reviewing a token", status, answer)
        return said.get("authenticated") is True

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        accept: str = "application/json",
    ) -> tuple[int, Any]:
        headers = {
            "Accept": accept,
            "Authorization": f"Bearer {self._token().strip()}",
            "User-Agent": "remit",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else msgspec.json.encode(body)
        url = URL(self._base + path, encoded=True)
        answer = await self._target.ask(method, url, headers=headers, data=data)
        return answer.status, answer.json()


def _get(answer: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(answer, Mapping):
            return None
        answer = answer.get(key)
    return answer


def _items(answer: Any) -> list[Any] | None:
    """Return what a list holds: of nothing, the API server writes null."""
    if _get(answer, "kind") != "PartialObjectMetadataList":
        return None
    items = _get(answer, "items")
    return [] if items is None else items if isinstance(items, list) else None


def _is_gone(status: int, answer: Any, name: str) -> bool:
    """Whether this secret is not there: a 404 of something else's says nothing about it."""
    return (
        status == 404  # noqa: PLR2004 - Not Found
        and _get(answer, "kind") == "Status"
        and _get(answer, "reason") == "NotFound"
        and _get(answer, "details", "kind") == "secrets"
        and _get(answer, "details", "name") == name
    )


def _said(what: str, status: int, answer: Any) -> str:
    reason = _get(answer, "reason")
    word = f" `{reason}`" if isinstance(reason, str) and reason.isalpha() else ""
    hint = f": {_HINTS[status]}" if status in _HINTS else ""
    return f"kubernetes: {what} was answered with {status}{word}{hint}"


def _failed(what: str, status: int, answer: Any) -> BrokerError:
    return BrokerError(_said(what, status, answer))


def _refused(what: str, status: int, answer: Any) -> BrokerError:
    certain = 400 <= status < 500  # noqa: PLR2004 - the API server's word that it made nothing
    return (NotMintedError if certain else BrokerError)(_said(what, status, answer))
