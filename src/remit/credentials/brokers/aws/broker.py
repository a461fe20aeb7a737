"""Broker `aws`: one session of an IAM role for each lease, narrowed by a session policy.

The session's name is the lease's handle and its source identity the task, so that CloudTrail says
of every event which lease it belongs to. Remit needs no key at AWS: it is an OpenID issuer that the
role trusts. AWS cannot take keys of a session back. They run out, after 900 seconds at the
earliest; where it is configured, a deny in the role's own policy ends the session before that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from remit.credentials.brokers.aws.api import LONGEST_SECONDS, SHORTEST_SECONDS, Api, Session
from remit.credentials.brokers.aws.denials import Denials, FullError
from remit.credentials.brokers.aws.options import PROBE, Grants, read_options
from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.credentials.tables import secret_source
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease, LeaseState

_SPREAD_SECONDS = 5
_LATE_SECONDS = 120
"""How long after it was asked for a session that nobody heard of may still begin."""


class AwsBroker:
    """Mints sessions of one role; docs/brokers/aws.md has its options and grants."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the options.

        Raises:
            ConfigError: an option is unknown, missing or makes no sense.
        """
        self._options = read_options(name, options)
        self._clock = surroundings.clock
        secret = None
        if self._options.login == "keys":
            try:
                secret = secret_source(
                    "secret_access_key",
                    self._options.secret_access_key,
                    self._options.secret_access_key_file,
                    surroundings.path,
                )
            except ConfigError as error:
                raise ConfigError(f"`[broker.{name}]`: {error}") from error
        self._api = Api(
            self._options,
            http=surroundings.http,
            signer=surroundings.signer,
            clock=surroundings.clock,
            secret=secret,
            installation=surroundings.installation,
        )
        self._denials = Denials(self._api, surroundings.installation, surroundings.clock)
        self._grants = Grants(probe=self._options.probe)

    @property
    def traits(self) -> Traits:
        """A deny takes it back; whether it has arrived is asked with the session's own keys."""
        return Traits(
            revocation="immediate" if self._options.revoke == "session" else "at_expiry",
            confirms=self._options.probe,
            lists=False,
        )

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a binding's grant.

        Raises:
            ConfigError: it is not understood, or arguments would choose what is allowed.
        """
        self._grants.check(grant)

    async def issue(self, order: Order) -> Credential:
        """Begin a session named after the lease.

        Raises:
            NotMintedError: AWS refused, was not reached, or the grant makes no sense filled in.
            BrokerError: AWS failed, or refuses the session what it is to be asked by.
        """
        try:
            arguments = order.call.arguments if order.call is not None else {}
            grant = self._grants.filled(order.grant, arguments)
        except ConfigError as error:
            raise NotMintedError(f"aws: the grant, filled in: {error}") from error
        lease = order.lease
        seconds = int((lease.expires_at - self._clock()).total_seconds())
        if seconds < 1:
            raise NotMintedError("aws: less than a second is left to the lease")
        session = await self._api.assume(
            role=self._options.role,
            name=lease.handle,
            seconds=seconds,
            source_identity=lease.task if self._options.source_identity else None,
            tags=grant.tags,
            policy=grant.policy_text(probe=self._options.probe),
            policy_arns=tuple(grant.policy_arns),
        )
        if self._options.probe and not await self._api.accepts(session):
            # What is refused from the beginning would confirm every end.
            raise BrokerError(f"aws: `probe` wants the role to allow `{PROBE}`, and it does not")
        values = {
            "access_key_id": session.access_key_id,
            "secret_access_key": session.secret_access_key,
            "session_token": session.session_token or "",
            "region": self._options.region,
        }
        return Credential(
            values=values,
            secrets=(values["secret_access_key"], values["session_token"]),
            memo=session.access_key_id,
            keep=_kept(session) if self._options.probe else None,
            expires_at=session.expires_at,
        )

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Deny the session, where that is configured; otherwise say until when it lives.

        Raises:
            BrokerError: AWS failed.
        """
        until = self._latest_end(lease)
        if self._options.revoke == "session":
            late = timedelta(seconds=self._longest_seconds(lease) + _LATE_SECONDS)
            # Not the session's expiry alone: a mint that nobody heard of may begin after this.
            end = max(until, self._clock() + late)
            try:
                await self._denials.add(lease.handle, end)
            except FullError:
                return Revocation(
                    confirmed=False,
                    until=until,
                    detail="the policy that denies sessions is full: this one can only run out",
                )
            return await self._asked(keep, "the role's policy denies the session")
        asked = await self._asked(keep, "the session has run out by now")
        if until <= self._clock() or asked.confirmed:
            return asked
        return Revocation(
            confirmed=False, until=until, detail="aws takes no session back: it runs out then"
        )

    async def _asked(self, keep: str | None, done: str) -> Revocation:
        if keep is None or not self._options.probe:
            return Revocation(confirmed=False, detail=f"{done}, and aws was not asked about it")
        if await self._api.accepts(msgspec.json.decode(keep, type=Session)):
            return Revocation(
                confirmed=False,
                until=self._clock() + timedelta(seconds=_SPREAD_SECONDS),
                detail=f"{done}, and aws still accepts it: policies take seconds to spread",
            )
        return Revocation(confirmed=True)

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Say which sessions have time left and are not denied: STS lists none.

        Raises:
            BrokerError: IAM could not be asked.
        """
        denied: frozenset[str] = frozenset()
        if self._options.revoke == "session" and leases:
            denied = await self._denials.names()
        now = self._clock()
        left = [
            lease
            for lease in leases
            if lease.handle not in denied and self._latest_end(lease) > now
        ]
        return Census(
            alive=frozenset(each.handle for each in left if each.issued_at is not None),
            complete=False,
            unasked=frozenset(each.handle for each in left if each.issued_at is None),
        )

    async def close(self) -> None:
        """Nothing is open: the connections are the house's."""

    def _latest_end(self, lease: Lease) -> datetime:
        if lease.state is LeaseState.UNKNOWN:
            return lease.expires_at  # what this said before
        if lease.issued_at is not None:
            # With a deny the book keeps the lease's own end; the session may live to STS's least.
            return max(lease.expires_at, lease.issued_at + timedelta(seconds=SHORTEST_SECONDS))
        late = timedelta(seconds=self._longest_seconds(lease) + _LATE_SECONDS)
        return lease.reserved_at + late

    @staticmethod
    def _longest_seconds(lease: Lease) -> float:
        asked = (lease.expires_at - lease.reserved_at).total_seconds()
        return min(max(SHORTEST_SECONDS, asked), LONGEST_SECONDS)


def _kept(session: Session) -> str:
    return msgspec.json.encode(session).decode()
