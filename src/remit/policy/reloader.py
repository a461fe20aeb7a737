"""Follows a bundle's folder, and swaps a changed bundle in once it has passed its check.

The poll and the check run on a thread. The swap is one plain call on the event loop, so no decision
sees half of it: those in flight end under the bundle they began with. A bundle that fails its check
never becomes active; the failure is logged and shown by ``health()`` until it is mended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from remit.model.errors import RemitError
from remit.model.record import Context, Recorder
from remit.policy.bundle import Bundle
from remit.policy.check import Checked, TemplateCheck, check_files
from remit.policy.loading import read_folder

POLL_SECONDS = 1.0

log = structlog.get_logger()


class Reloader:
    """Watches one folder on behalf of whoever holds the active bundle.

    ``swap`` is called on the event loop with each new bundle that passed its check and whose
    ``policy.loaded`` record is durable; it must not await, and where it raises a RemitError it must
    have changed nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        active: Bundle,
        swap: Callable[[Bundle], None],
        recorder: Recorder,
        templates: Path | None = None,
        check_templates: TemplateCheck | None = None,
        obligations: frozenset[str] = frozenset(),
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._folder = folder
        self._templates = templates
        self._active = active
        self._swap = swap
        self._recorder = recorder
        self._check_templates = check_templates
        self._obligations = obligations
        self._poll_seconds = poll_seconds
        self._looked_at: object = None
        self._recorded: str | None = None
        self._trouble: str | None = None
        self._running: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()

    async def start(self) -> None:
        """Begin to watch."""
        self._running = asyncio.create_task(self._watch(), name="remit-policy-reload")

    async def close(self) -> None:
        """Stop watching."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            self._running = None

    def health(self) -> str | None:
        """Return None, or a sentence: the folder's bundle is not the one that decides, and why."""
        return self._trouble

    async def poll(self) -> bool:
        """Look once; return whether another bundle became the active one.

        Files are told apart by their bytes, and so is a folder from one that failed before.
        """
        async with self._one:
            try:
                return await self._look()
            except RemitError as error:
                self._say(str(error))
                return False

    async def _look(self) -> bool:
        try:
            files = await asyncio.to_thread(read_folder, self._folder, self._templates)
        except RemitError as error:
            self._looked_at = None
            self._say(str(error))
            return False
        if files == self._looked_at:
            return False
        checked = await asyncio.to_thread(self._checked, files)
        if checked.bundle is None:
            self._looked_at = files
            self._say("; ".join(str(fault) for fault in checked.errors[:5]))
            return False
        if checked.bundle.digest == self._active.digest:
            self._looked_at, self._trouble = files, None
            return False
        if self._recorded != checked.bundle.digest:
            self._recorder.stage(checked.bundle.record(), Context())
            await self._recorder.barrier()
            # Should the swap fail, the next look tries again, without recording it once more.
            self._recorded = checked.bundle.digest
        self._swap(checked.bundle)
        self._recorded = None
        self._active, self._looked_at, self._trouble = checked.bundle, files, None
        log.info("policy loaded", bundle=checked.bundle.digest)
        return True

    def _checked(self, files: Mapping[str, bytes]) -> Checked:
        return check_files(
            files, check_templates=self._check_templates, obligations=self._obligations
        )

    def _say(self, why: str) -> None:
        trouble = f"the bundle in `{self._folder}` was not loaded, the one before decides: {why}"
        if trouble != self._trouble:
            log.error("policy not loaded", folder=str(self._folder), reason=why)
        self._trouble = trouble

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.poll()
            except Exception:
                log.exception("the policy folder could not be looked at")
                self._trouble = "the policy folder could not be looked at: see the log"
