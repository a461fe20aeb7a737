"""Keys that were not minted for anybody: for services that know nothing better.

Nothing ends at the service when a lease does. What can be said is that the gateway alone opened the
key, for one call, and that nobody was given it afterwards; so its age is what there is to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.credentials.sealed_keys import SealedKeys
from remit.credentials.tables import read_table
from remit.model.errors import ConfigError, NotFoundError, NotMintedError
from remit.model.lease import Credential, Lease

_LIVES_ON = "the key itself lives on until it is rotated at its service"
_MOST_DAYS = 36_500


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker's table."""

    max_age_days: float = 90
    refuse_aged: bool = False


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which key an upstream's calls get."""

    key: str


class SealedBroker:
    """Opens sealed keys; docs/brokers/sealed.md has its options and grants."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        where = f"`[broker.{name}]`"
        self._options = read_table(options, Options, where)
        if not 0 < self._options.max_age_days <= _MOST_DAYS:
            raise ConfigError(f"{where}: `max_age_days` is above 0, and at most {_MOST_DAYS}")
        if surroundings.sealed is None:
            raise ConfigError(f"{where}: nothing here keeps sealed keys")
        self._keys: SealedKeys = surroundings.sealed
        self._clock = surroundings.clock
        self._max_age = timedelta(days=self._options.max_age_days)
        self._bound: set[str] = set()

    @property
    def traits(self) -> Traits:
        """Nothing ends at the service, and it cannot be asked."""
        return Traits(revocation="never", confirms=False, lists=False)

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a binding's grant; from now on its key's age is watched.

        Raises:
            ConfigError: it does not name one key.
        """
        key = self._key(grant)
        self._keys.watch(key, self._max_age)
        self._bound.add(key)

    async def issue(self, order: Order) -> Credential:
        """Open a key for one call.

        Raises:
            NotMintedError: no such key is sealed, it is too old, or it is not for one call.
        """
        try:
            name = self._key(order.grant)
            if order.call is None:
                raise NotMintedError('a sealed key is opened for one call: say `scope = "call"`')
            self._require_young(name)
            secret = self._keys.open(name, order.lease)
        except (ConfigError, NotFoundError) as error:
            raise NotMintedError(str(error)) from error
        return Credential(values={"key": secret}, secrets=(secret,), memo=name)

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Say that the key lives on: it leaves the gateway's hands, and that is all."""
        del lease, keep
        return Revocation(confirmed=False, detail=_LIVES_ON)

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Name every key as standing, whatever its leases do."""
        now = self._clock()
        standing = {
            f"sealed key `{key.name}`": f"{_LIVES_ON}; its value is {key.age(now).days} days old"
            for key in self._keys.keys
            if key.name in self._bound or key.name not in self._keys.limits
        }
        return Census(
            alive=frozenset(),
            complete=False,
            unasked=frozenset(lease.handle for lease in leases),
            standing=standing,
        )

    async def close(self) -> None:
        """Nothing is open."""

    def _require_young(self, name: str) -> None:
        age = self._keys.get(name).age(self._clock())
        if self._options.refuse_aged and age > self._max_age:
            raise NotMintedError(
                f"sealed key `{name}` is {age.days} days old, and may become "
                f"{self._options.max_age_days:g}: rotate it at its service, then with "
                f"`remit credential rotate {name}`"
            )

    def _key(self, grant: Mapping[str, Any]) -> str:
        return read_table(grant, Grant).key
