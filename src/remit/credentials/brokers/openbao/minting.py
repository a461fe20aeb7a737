"""Mints at OpenBao: a token of the lease, a note of its accessor, and with it a secret."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import hvac

from remit.credentials.brokers.openbao.api import Api, answers
from remit.credentials.brokers.openbao.carried import Asked, document
from remit.credentials.brokers.openbao.memo import Memo, Notes
from remit.credentials.brokers.openbao.options import Grant
from remit.credentials.brokers.openbao.standing import Standing
from remit.credentials.port import Order
from remit.model.errors import BrokerError, NotMintedError
from remit.model.lease import Credential

_GUARDED_LENGTH = 8
_PUBLIC = frozenset(
    [
        "accessor",
        "ca_chain",
        "certificate",
        "expiration",
        "issuing_ca",
        "lease_id",
        "not_before",
        "private_key_type",
        "public_key",
        "serial_number",
        "signed_key",
        "ttl",
        "username",
    ]
)
_UNFIT = re.compile(r"[^a-z0-9_]")


class Minter:
    """Takes the steps of one mint after another, and ends what it made where it cannot go on."""

    def __init__(
        self,
        api: Api,
        standing: Standing,
        notes: Notes,
        *,
        token_role: str | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._standing = standing
        self._notes = notes
        self._token_role = token_role
        self._clock = clock

    async def mint(
        self, order: Order, grant: Grant, require_wanted: Callable[[], None]
    ) -> Credential:
        """Return the credential; ``require_wanted`` raises once nobody waits for it.

        Raises:
            NotMintedError: OpenBao was not reached, or refused the token.
            BrokerError: OpenBao failed, gave something that nobody could take back, or nobody waits.
        """
        began = self._clock()
        seconds = int((order.lease.expires_at - began).total_seconds())
        if seconds < 1:
            raise NotMintedError("openbao: less than a second is left to the lease")
        token, memo, lives = await self._token(order, grant, seconds)
        try:
            self._noted(order.lease.handle, memo)
            values = {"token": token, "accessor": memo.accessor}
            if grant.secret is not None:
                require_wanted()
                fields, memo = await self._secret(token, grant, memo, order)
                values |= fields
            require_wanted()
        except BaseException:
            with contextlib.suppress(BrokerError):  # the note stands until a revocation is sure
                await self._standing.end(self._notes.find(order.lease.handle) or memo)
            raise
        return Credential(
            values=values,
            secrets=(token, *(_secrets(values) - {token})),
            memo=memo.text(),
            expires_at=min(order.lease.expires_at, began + timedelta(seconds=lives)),
        )

    async def _token(self, order: Order, grant: Grant, seconds: int) -> tuple[str, Memo, float]:
        lease = order.lease

        def create(client: hvac.Client) -> Asked:
            return client.auth.token.create(  # type: ignore[no-any-return]
                role_name=self._token_role,
                policies=list(grant.policies),
                meta={
                    "remit_lease": lease.handle,
                    "remit_task": lease.task,
                    "remit_workload": order.workload,
                    **({"remit_call": lease.call} if lease.call else {}),
                },
                no_default_policy="default" not in grant.policies,
                renewable=False,
                ttl=f"{seconds}s",
                explicit_max_ttl=f"{seconds}s",
                display_name=lease.handle,
                num_uses=grant.uses,
                wrap_ttl=f"{grant.wrap}s" if grant.wrap else None,
            )

        with answers("making a token", mints=True):
            answer = document(await self._api.as_remit(create, lives=seconds), "making a token")
            if grant.wrap:
                wrapped = answer["wrap_info"]
                accessor, wrapping = _name(wrapped["wrapped_accessor"]), _name(wrapped["accessor"])
                memo = Memo(accessor=accessor, wrapping=wrapping)
                return _name(wrapped["token"]), memo, min(seconds, float(wrapped["ttl"]))
            auth = answer["auth"]
            memo = Memo(accessor=_name(auth["accessor"]))
            return _name(auth["client_token"]), memo, min(seconds, float(auth["lease_duration"]))

    async def _secret(
        self, token: str, grant: Grant, memo: Memo, order: Order
    ) -> tuple[dict[str, str], Memo]:
        path, began = f"/v1/{grant.secret}", self._clock()
        seconds = max(1, int((order.lease.expires_at - began).total_seconds()))
        given: dict[str, Any] = dict(grant.parameters)
        if grant.send_ttl:
            given["ttl"] = f"{seconds}s"

        def read(client: hvac.Client) -> Asked:
            adapter = client.adapter
            return adapter.post(path, json=given) if given else adapter.get(path)  # type: ignore[no-any-return]

        what = f"reading `{grant.secret}`"
        with answers(what):
            answer = document(await self._api.ask(token, read), what)
            lease_id, data = answer["lease_id"], document(answer["data"], what)
            if not lease_id and set(data) == {"data", "metadata"}:
                # The second version of the kv engine wraps its values.
                data = document(data["data"], what)
            lease_id = _name(lease_id) if lease_id else None
        if lease_id is not None:
            memo = Memo(accessor=memo.accessor, lease_id=lease_id)
        elif grant.lives_on:
            until = began + timedelta(seconds=seconds) if grant.send_ttl else None
            memo = Memo(accessor=memo.accessor, outlives=True, until=until)
        else:
            raise BrokerError(
                f"openbao gave no lease with `{grant.secret}`, so nobody could take it back: have "
                "its engine give leases, or say `lives_on = true` if that is accepted"
            )
        self._noted(order.lease.handle, memo)
        return _fields(data), memo

    def _noted(self, handle: str, memo: Memo) -> None:
        try:
            self._notes.keep(handle, memo)
        except OSError as error:
            raise BrokerError(f"the state folder cannot be written: {error.strerror}") from error


def _name(value: object) -> str:
    """Return what names or is a token; anything else could not be taken back by it."""
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _fields(data: Mapping[str, Any]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in data.items():
        fit = _UNFIT.sub("_", str(name).lower())
        if fit in fields:
            raise BrokerError(f"openbao gave two fields that are both called `{{{fit}}}` here")
        if isinstance(value, str):
            fields[fit] = value
        elif isinstance(value, bool | int | float):
            fields[fit] = str(value).lower() if isinstance(value, bool) else str(value)
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            fields[fit] = "\n".join(value)
    return fields


def _secrets(values: Mapping[str, str]) -> frozenset[str]:
    return frozenset(
        value
        for name, value in values.items()
        if name not in _PUBLIC and len(value) >= _GUARDED_LENGTH
    )
