"""Broker `kubernetes`: a token of a service account for each lease, bound to a secret of its name.

A token that is bound to an object is good while the object is there. So each lease gets an empty
secret that has the handle as its name, and a token bound to it; deleting the secret ends the token,
and the secret is found by name or label though the mint was never answered.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from remit.credentials.brokers.kubernetes.api import LABEL, Api
from remit.credentials.brokers.kubernetes.options import Grant, Options, read_grant, read_options
from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.credentials.tables import secret_source
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease, LeaseState

SHORTEST_SECONDS = 600
"""What an API server gives at least; it refuses less."""
_REMEMBERED_SECONDS = 12
"""An API server remembers for ten seconds that a token was good."""
_UNFIT = re.compile(r"[^ -~]")


class _Kept(msgspec.Struct, frozen=True):
    """What a review of the token needs."""

    token: str
    audiences: list[str]


class KubernetesBroker:
    """Mints in one namespace; docs/brokers/kubernetes.md has its options and grants."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the options.

        Raises:
            ConfigError: an option is unknown, missing or makes no sense.
        """
        self._options = read_options(name, options)
        try:
            token = secret_source(
                "token", self._options.token, self._options.token_file, surroundings.path
            )
            tls = _trust(self._options, surroundings)
        except ConfigError as error:
            raise ConfigError(f"`[broker.{name}]`: {error}") from error
        self._clock = surroundings.clock
        self._installation = surroundings.installation
        self._api = Api(self._options, http=surroundings.http, token=token, tls=tls)
        self._minting: dict[str, asyncio.Task[Credential]] = {}

    @property
    def traits(self) -> Traits:
        """The end of the secret is the token's; both can be asked about, and secrets listed."""
        return Traits(revocation="immediate", confirms=True, lists=True)

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a binding's grant.

        Raises:
            ConfigError: it is not understood.
        """
        read_grant(grant)

    async def issue(self, order: Order) -> Credential:
        """Make a secret named after the lease, and a token that is bound to it.

        Raises:
            NotMintedError: the API server refused, was not reached, or the grant makes no sense.
            BrokerError: the API server failed.
        """
        try:
            grant = read_grant(order.grant)
        except ConfigError as error:
            raise NotMintedError(f"kubernetes: the grant: {error}") from error
        seconds = int((order.lease.expires_at - self._clock()).total_seconds())
        if seconds < 1:
            raise NotMintedError("kubernetes: less than a second is left to the lease")
        handle = order.lease.handle
        # Never cut short: what it makes is the revocation's to find, and not to overtake.
        mint = self._minting[handle] = asyncio.create_task(self._mint(order, grant, seconds))
        mint.add_done_callback(lambda done: self._minted(handle, done))
        return await asyncio.shield(mint)

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Delete the lease's secret, and ask whether it and the token are gone.

        Raises:
            BrokerError: the API server failed, or something keeps the secret.
        """
        mint = self._minting.get(lease.handle)
        if mint is not None:
            await asyncio.wait({mint})
        await self._api.remove_anchor(lease.handle)
        if keep is not None:
            kept = msgspec.json.decode(keep, type=_Kept)
            if await self._accepted(kept):
                return Revocation(
                    confirmed=False,
                    until=self._clock() + timedelta(seconds=_REMEMBERED_SECONDS),
                    detail="its secret is gone, and the API server remembers for some seconds that "
                    "the token was good",
                )
        return Revocation(confirmed=True)

    async def census(self, leases: Sequence[Lease]) -> Census:
        """List the secrets of this installation, and name what an API server may remember.

        Raises:
            BrokerError: the API server could not be asked.
        """
        alive = await self._api.anchors(self._installation)
        # Its secret is gone and yet it is not over: its token is remembered, or was not asked about.
        remembered = {
            lease.handle
            for lease in leases
            if lease.state is LeaseState.SETTLING and lease.handle not in alive
        }
        return Census(alive=alive, complete=True, unasked=frozenset(remembered))

    async def close(self) -> None:
        """Wait for mints under way: their tokens would be nobody's."""
        await asyncio.gather(*self._minting.values(), return_exceptions=True)

    async def _accepted(self, kept: _Kept) -> bool:
        """Ask as each resource asks that goes by one audience: what is remembered is for these words.

        An API server remembers a token together with the audiences that it was asked about.
        """
        asked = [kept.audiences]
        if len(kept.audiences) > 1:
            asked += [[audience] for audience in kept.audiences]
        answers = await asyncio.gather(*(self._api.accepts(kept.token, each) for each in asked))
        return any(answers)

    async def _mint(self, order: Order, grant: Grant, seconds: int) -> Credential:
        lease = order.lease
        annotations = {
            "remit.dev/lease": lease.id,
            "remit.dev/task": lease.task,
            "remit.dev/workload": _UNFIT.sub("?", order.workload)[:2048],
        }
        labels = {"app.kubernetes.io/managed-by": "remit", LABEL: self._installation}
        uid = await self._api.make_anchor(lease.handle, labels, annotations)
        try:
            token, expires_at = await self._api.make_token(
                grant.service_account,
                lease.handle,
                uid,
                grant.audiences,
                max(seconds, SHORTEST_SECONDS),
            )
        except BrokerError as error:
            try:
                await self._api.remove_anchor(lease.handle)
            except BrokerError:
                # The secret may stand: the lease is not over until somebody looked.
                raise BrokerError(str(error)) from None
            raise
        return Credential(
            values={
                "token": token,
                "namespace": self._options.namespace,
                "server": self._options.url.rstrip("/"),
            },
            secrets=(token,),
            keep=msgspec.json.encode(_Kept(token, grant.audiences)).decode(),
            expires_at=expires_at,
        )

    def _minted(self, handle: str, done: asyncio.Task[Credential]) -> None:
        self._minting.pop(handle, None)
        if not done.cancelled():
            done.exception()  # whoever waited was told


def _trust(options: Options, surroundings: Surroundings) -> ssl.SSLContext | bool:
    if options.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(surroundings.path(options.ca_file)))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"`ca_file`: `{options.ca_file}` holds no certificate") from error
