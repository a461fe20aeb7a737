"""What Prometheus may ask: calls and how they ended, the log's size, what is open."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from remit.model.call import Call
from remit.model.errors import RemitError
from remit.model.outcome import Outcome
from remit.model.subject import Claim
from remit.spine import Act, Authority, Understand, perform

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The registry behind ``/metrics``; every name starts with ``remit_``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "remit_calls",
            "Governed calls, by upstream and by how they ended.",
            ("upstream", "ending"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "remit_call_seconds",
            "Seconds from a call's arrival to its durable outcome, the upstream's time included.",
            ("upstream",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._leaks = Counter(
            "remit_leaks",
            "Credentials that were taken out of answers to governed calls, by whose they were.",
            ("upstream", "whose"),
            registry=self.registry,
        )

        self._refused = Counter(
            "remit_control_refusals",
            "Control requests that were refused: no_token, unidentified, forbidden, not_eligible.",
            ("code",),
            registry=self.registry,
        )

    def refused(self, code: str) -> None:
        """Count a control request that was refused."""
        self._refused.labels(code).inc()

    def gauge(self, name: str, sentence: str, value: Callable[[], float]) -> None:
        """Show ``value()`` under ``remit_<name>``."""
        Gauge(f"remit_{name}", sentence, registry=self.registry).set_function(value)

    async def perform(
        self,
        claim: Claim,
        call: Call,
        act: Act,
        authority: Authority,
        *,
        understand: Understand | None = None,
    ) -> Outcome:
        """Carry one call, and count it.

        Raises:
            RemitError: as :func:`remit.spine.perform`.
        """
        began = time.monotonic()
        ending = "cancelled"
        try:
            outcome = await perform(claim, call, act, authority, understand=understand)
            ending = outcome.ending.value
            for leak in outcome.leaks:
                whose = "others" if leak.lease is None else "ours"
                self._leaks.labels(call.upstream, whose).inc(leak.count)
        except RemitError as error:
            ending = error.code
            raise
        finally:
            # A caller chooses the name of an upstream it was refused: only known ones are labels.
            self._calls.labels(call.upstream, ending).inc()
            self._seconds.labels(call.upstream).observe(time.monotonic() - began)
        return outcome
