"""Ends what was minted at OpenBao, and asks what stands there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from hvac.exceptions import Forbidden, VaultError

from remit.credentials.brokers.openbao.api import Api, answers, is_gone
from remit.credentials.brokers.openbao.carried import Asking, document
from remit.credentials.brokers.openbao.memo import Memo
from remit.model.errors import BrokerError

_LOOKS = (0.05, 0.2, 0.8, None)
"""Seconds after each look to the next: OpenBao may end what is below a token a bit later."""
_SCAN_SECONDS = 30.0


_NOBODYS = "an-accessor-that-nobody-has"


class _RefusedError(BrokerError):
    """Whether it is about the accessor or about us, its answer does not say."""


class Standing:
    """Knows which accessor is which lease's: a token's metadata never changes, so it asks once."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._handles: dict[str, str] = {}

    async def end(self, memo: Memo) -> None:
        """Revoke what a memo names, and see that it is gone.

        Raises:
            BrokerError: OpenBao failed, or it still stands.
        """
        trouble: BrokerError | None = None
        if memo.lease_id is not None:
            lease = {"lease_id": memo.lease_id, "sync": True}
            try:
                await self._ask(
                    "revoking a lease", lambda c: c.adapter.put("/v1/sys/leases/revoke", json=lease)
                )
            except BrokerError as error:
                trouble = error  # its token is revoked all the same
        for accessor in (memo.wrapping, memo.accessor):
            if accessor is not None:
                await self._ask("revoking a token", _revoking(accessor))
        for pause in _LOOKS:
            if not await self._stands(memo):
                return
            if pause is not None:
                await asyncio.sleep(pause)
        raise trouble or BrokerError("openbao has not revoked it yet")

    async def among(self, memos: Mapping[str, Memo]) -> set[str]:
        """Return the handles whose token or secret stands.

        Raises:
            BrokerError: OpenBao failed.
        """
        return {handle for handle, memo in memos.items() if await self._stands(memo)}

    async def by_handle(self) -> Mapping[str, str]:
        """Return the accessor of every token that any Remit made, by its lease's handle.

        Raises:
            BrokerError: OpenBao failed, or there are so many that it has to go on another time.
        """
        deadline = time.monotonic() + _SCAN_SECONDS
        _, listed = await self._ask("listing accessors", lambda c: c.auth.token.list_accessors())
        with answers("listing accessors"):
            data = document(document(listed, "listing accessors")["data"], "listing accessors")
            accessors = {str(each) for each in data["keys"]}
        self._handles = {a: h for a, h in self._handles.items() if a in accessors}
        for seen, accessor in enumerate(sorted(accessors - self._handles.keys())):
            if time.monotonic() > deadline:
                raise BrokerError(f"openbao has many tokens: {seen} looked at, to be gone on with")
            found = await self._look(accessor)
            if found is not None:
                meta = found.get("meta")
                named = meta.get("remit_lease", "") if isinstance(meta, Mapping) else ""
                self._handles[accessor] = str(named)
        return {handle: accessor for accessor, handle in self._handles.items() if handle}

    async def _stands(self, memo: Memo) -> bool:
        if await self._look(memo.accessor) is not None:
            return True
        if memo.lease_id is None:
            return False
        name = memo.lease_id
        there, said = await self._ask("looking up a lease", lambda c: c.sys.read_lease(name))
        if there:
            document(said, "looking up a lease")
        return there

    async def _look(self, accessor: str) -> Mapping[str, Any] | None:
        """Return what OpenBao says of a token; None where there is none.

        A mint or a revocation that was cut off inside OpenBao can leave an accessor behind without
        its token. Looking that up is refused as if we might not ask. So the same is asked about an
        accessor that nobody has: where that is called invalid, the refusal was not about us.
        """
        try:
            return await self._looked_up(accessor, again=False)
        except _RefusedError:
            if await self._looked_up(_NOBODYS, again=True) is not None:
                raise BrokerError("openbao: an accessor that nobody has was looked up") from None
        try:
            return await self._looked_up(accessor, again=False)
        except _RefusedError:
            return None

    async def _looked_up(self, accessor: str, *, again: bool) -> Mapping[str, Any] | None:
        with answers("looking up a token"):
            try:
                found = await self._api.as_remit(
                    lambda client: client.auth.token.lookup_accessor(accessor), again=again
                )
            except VaultError as error:
                if is_gone(error):
                    return None
                if isinstance(error, Forbidden) and not again:
                    raise _RefusedError("openbao: looking up a token was refused") from None
                raise
            said = document(found, "looking up a token")
            return document(said["data"], "looking up a token")

    async def _ask(self, what: str, asking: Asking) -> tuple[bool, Any]:
        """Ask as Remit; return whether there is such a thing, and the answer.

        A refusal to let us ask is not an absence, although its status can be the same.
        """
        with answers(what):
            try:
                return True, await self._api.as_remit(asking)
            except VaultError as error:
                if is_gone(error):
                    return False, None
                raise


def _revoking(accessor: str) -> Asking:
    return lambda client: client.auth.token.revoke_accessor(accessor)
