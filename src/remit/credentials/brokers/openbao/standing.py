"""Ends what was minted at OpenBao, and asks what stands there. For a worker thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import hvac
from hvac.exceptions import Forbidden, VaultError

from remit.credentials.brokers.openbao.api import Api, answers, document, is_gone
from remit.credentials.brokers.openbao.memo import Memo
from remit.model.errors import BrokerError

_LOOKS = (0.0, 0.05, 0.2, 0.8)
"""Seconds before each look whether all is gone: OpenBao may end what is below a token a bit later."""
_SCAN_SECONDS = 30.0


_NOBODYS = "an-accessor-that-nobody-has"


class _RefusedError(BrokerError):
    """Whether it is about the accessor or about us, its answer does not say."""


class Standing:
    """Knows which accessor is which lease's: a token's metadata never changes, so it asks once."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._handles: dict[str, str] = {}

    def end(self, memo: Memo) -> None:
        """Revoke what a memo names, and see that it is gone.

        Raises:
            BrokerError: OpenBao failed, or it still stands.
        """
        trouble: BrokerError | None = None
        if memo.lease_id is not None:
            lease = {"lease_id": memo.lease_id, "sync": True}
            try:
                self._ask(
                    "revoking a lease", lambda c: c.adapter.put("/v1/sys/leases/revoke", json=lease)
                )
            except BrokerError as error:
                trouble = error  # its token is revoked all the same
        for accessor in (memo.wrapping, memo.accessor):
            if accessor is not None:
                self._ask("revoking a token", _revoking(accessor))
        for pause in _LOOKS:
            time.sleep(pause)
            if not self._stands(memo):
                return
        raise trouble or BrokerError("openbao has not revoked it yet")

    def among(self, memos: Mapping[str, Memo]) -> set[str]:
        """Return the handles whose token or secret stands.

        Raises:
            BrokerError: OpenBao failed.
        """
        return {handle for handle, memo in memos.items() if self._stands(memo)}

    def by_handle(self) -> Mapping[str, str]:
        """Return the accessor of every token that any Remit made, by its lease's handle.

        Raises:
            BrokerError: OpenBao failed, or there are so many that it has to go on another time.
        """
        deadline = time.monotonic() + _SCAN_SECONDS
        listed = self._ask("listing accessors", lambda c: c.auth.token.list_accessors())
        with answers("listing accessors"):
            accessors = set(document(listed, "listing accessors")["data"]["keys"])
        self._handles = {a: h for a, h in self._handles.items() if a in accessors}
        for seen, accessor in enumerate(sorted(accessors - self._handles.keys())):
            if time.monotonic() > deadline:
                raise BrokerError(f"openbao has many tokens: {seen} looked at, to be gone on with")
            found = self._look(accessor)
            if found is not None:
                self._handles[accessor] = str((found.get("meta") or {}).get("remit_lease", ""))
        return {handle: accessor for accessor, handle in self._handles.items() if handle}

    def _stands(self, memo: Memo) -> bool:
        if self._look(memo.accessor) is not None:
            return True
        if memo.lease_id is None:
            return False
        name = memo.lease_id
        return self._ask("looking up a lease", lambda c: c.sys.read_lease(name)) is not None

    def _look(self, accessor: str) -> Mapping[str, Any] | None:
        """Return what OpenBao says of a token; None where there is none.

        A mint or a revocation that was cut off inside OpenBao can leave an accessor behind without
        its token. Looking that up is refused as if we might not ask. So the same is asked about an
        accessor that nobody has: where that is called invalid, the refusal was not about us.
        """
        try:
            return self._looked_up(accessor, again=False)
        except _RefusedError:
            if self._looked_up(_NOBODYS, again=True) is not None:
                raise BrokerError("openbao: an accessor that nobody has was looked up") from None
        try:
            return self._looked_up(accessor, again=False)
        except _RefusedError:
            return None

    def _looked_up(self, accessor: str, *, again: bool) -> Mapping[str, Any] | None:
        with answers("looking up a token"):
            try:
                found = self._api.as_remit(
                    lambda client: client.auth.token.lookup_accessor(accessor), again=again
                )
            except VaultError as error:
                if is_gone(error):
                    return None
                if isinstance(error, Forbidden) and not again:
                    raise _RefusedError("openbao: looking up a token was refused") from None
                raise
            return dict(document(found, "looking up a token")["data"])

    def _ask(self, what: str, ask: Callable[[hvac.Client], Any]) -> Any:
        """Ask as Remit; None where OpenBao says that there is no such thing.

        A refusal to let us ask is not an absence, although its status can be the same.
        """
        with answers(what):
            try:
                return self._api.as_remit(ask)
            except VaultError as error:
                if is_gone(error):
                    return None
                raise


def _revoking(accessor: str) -> Callable[[hvac.Client], Any]:
    return lambda client: client.auth.token.revoke_accessor(accessor)
