"""One mint, asked of a target that may fail in any way, and never before its lease is durable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

import structlog

from remit.credentials.entry import Entry
from remit.credentials.port import Broker, Order
from remit.model.errors import (
    BrokerError,
    EvidenceError,
    NotFoundError,
    NotMintedError,
    RemitError,
)
from remit.model.lease import Credential

log = structlog.get_logger()


async def mint(
    entry: Entry,
    order: Order,
    broker: Broker,
    barrier: Callable[[], Awaitable[None]],
    clock: Callable[[], datetime],
) -> Credential:
    """Return what the target minted; ``entry.minting_since`` says while a mint may be on its way.

    Raises:
        NotMintedError: the target minted nothing.
        NotFoundError: the lease ended before anything was minted.
        EvidenceError: ``barrier`` raised it, and nothing was minted.
        BrokerError: the target failed, and may have minted all the same.
    """

    async def durable() -> None:
        await barrier()
        if not entry.usable:
            raise NotFoundError(f"lease `{entry.lease.id}` ended before anything was minted")
        entry.minting_since = clock()  # from here on it may come to something

    try:
        if not broker.traits.prepares:
            await durable()
        minted = await broker.issue(replace(order, durable=durable))
    except (NotMintedError, NotFoundError, EvidenceError):
        entry.minting_since = None
        raise
    except RemitError:
        raise
    except Exception as error:
        log.exception("a broker broke", broker=entry.lease.broker, lease=entry.lease.id)
        raise BrokerError(
            f"the broker of `{entry.lease.target}` broke: {type(error).__name__}"
        ) from error
    entry.minting_since = None
    return replace(minted, lease=entry.lease.id)
