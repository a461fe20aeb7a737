"""One revocation, asked of a target that may fail in any way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from remit.credentials.port import Broker, Revocation
from remit.model.errors import BrokerError, ConfigError
from remit.model.lease import Lease


async def revocation(
    broker: Broker, lease: Lease, kept: Callable[[Lease], str | None], seconds: float
) -> Revocation | str:
    """Return how the revocation went, or why there was no answer: the sweep asks again then."""
    try:
        async with asyncio.timeout(seconds):
            return await broker.revoke(lease, kept(lease))
    except (BrokerError, ConfigError) as error:
        return str(error)
    except TimeoutError:
        return f"it took longer than {seconds:g} seconds"
    except Exception as error:  # noqa: BLE001 - the sweep asks again, whatever it was
        return f"the broker broke: {type(error).__name__}"
