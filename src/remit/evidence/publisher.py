"""The log as static files under one folder, in the C2SP tlog-tiles layout, and its checkpoints.

The rules it keeps:

- What a checkpoint promises is there before the checkpoint: bundles and tiles first, each written
  whole and flushed, the checkpoint last. A crash in between leaves files that the next round
  writes again with the same bytes.
- While records arrive, a checkpoint is signed at least once a second; one more at the end.
- A checkpoint is signed only over a tree that starts with the last one published.
- The log's key is asked on a thread, since a token may block; where it has had nothing to sign for a
  while it is asked whether it would, so that one which is gone is told before it is needed.
- A round that fails, or does not end, is tried again; :meth:`Publisher.health` says so until one
  succeeds. Records are durable without it, so :meth:`Publisher.refusal` stops calls only once this
  has lasted longer than ``grace_seconds``, or the database was altered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from remit.evidence.files import write_file
from remit.evidence.log import Log
from remit.evidence.signer import NoteSigner
from remit.model.errors import EvidenceError, ProofError, RemitError
from remit.proof.checkpoint import Checkpoint, open_checkpoint
from remit.proof.merkle import verify_consistency
from remit.proof.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tile, encode_bundle, hash_tile, tiles_of

PERIOD_SECONDS = 0.5
"""How long to rest between rounds: half of what is promised, so that a slow round keeps it."""
SLOW_SECONDS = 5.0
"""How long a round may take before it counts as trouble."""
GRACE_SECONDS = 30.0
"""How long publishing may fail before calls are refused, unless told otherwise."""
CLOSE_SECONDS = 10.0
"""How long the last checkpoint may take before the end comes without it."""
PROBE_SECONDS = 10.0
"""How long a key may have had nothing to sign before it is asked whether it would."""
ROUND_TILES = 64
"""Full tiles a round at most: 16,384 records, so that a long absence is caught up in steps."""

_log = structlog.get_logger()


class Publisher:
    """Writes the log's files. ``published`` is the last signed checkpoint, ``note`` its bytes."""

    def __init__(
        self,
        log: Log,
        signer: NoteSigner,
        folder: Path,
        *,
        grace_seconds: float = GRACE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = log
        self._signer = signer
        self.folder = folder
        self.grace_seconds = grace_seconds
        self._monotonic = monotonic
        self._behind_since: float | None = None
        self._altered = False
        self._signed_at = monotonic()
        self.published: Checkpoint | None = None
        self.note: bytes | None = None
        self._trouble: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._stop = asyncio.Event()

    @property
    def size(self) -> int:
        """How many records the last published checkpoint covers."""
        return 0 if self.published is None else self.published.size

    def health(self) -> str | None:
        """Return None when the last round succeeded, else what is wrong."""
        if self._trouble is None and self._behind_seconds() > SLOW_SECONDS:
            return f"the log has not been published for {self._behind_seconds():.0f} seconds"
        return self._trouble

    def refusal(self) -> str | None:
        """Return None while calls may act, else why not: published too long ago, or altered."""
        if self._altered or self._behind_seconds() > self.grace_seconds:
            return self.health() or "the log cannot be published"
        return None

    def _behind_seconds(self) -> float:
        return 0.0 if self._behind_since is None else self._monotonic() - self._behind_since

    async def resume(self) -> None:
        """Read the last published checkpoint and prove that the log continues it.

        Raises:
            ProofError: it is not ours, or the log does not continue it.
            EvidenceError: it cannot be read.
        """
        note = await asyncio.to_thread(self._read)
        if note is None:
            if self._source.size:
                _log.warning("evidence.no_checkpoint", records=self._source.size)
            return
        try:
            last = open_checkpoint(
                note, [self._signer.verifier], origin=self._signer.origin
            ).checkpoint
        except ProofError as error:
            raise ProofError(f"the published checkpoint is not one of ours: {error}") from error
        size, tree = self._source.size, self._source.tree
        if last.size > size:
            raise ProofError(
                f"the database holds {size} records, but {last.size} were published: "
                "it was cut, or an older copy was restored"
            )
        try:
            if last.size:  # everything continues an empty log
                proof = tree.consistency(last.size)
                verify_consistency(last.size, size, last.root, tree.root(), proof)
        except ProofError as error:
            raise ProofError(
                f"the database does not continue the published checkpoint of {last.size} records"
            ) from error
        self.published, self.note = last, note
        await asyncio.to_thread(self._require_tiles, last.size)

    def start(self) -> None:
        """Publish from now on, in the background."""
        self._task = asyncio.create_task(self._run(), name="evidence-publisher")

    async def close(self) -> None:
        """Stop, and sign a last checkpoint.

        Raises:
            EvidenceError: the last checkpoint cannot be written, or not in time.
            ProofError: the database was altered meanwhile.
        """
        last = asyncio.ensure_future(self._last())
        done, _ = await asyncio.wait([last], timeout=CLOSE_SECONDS)
        if not done:
            raise EvidenceError(
                f"the disk has not answered for {CLOSE_SECONDS:g} seconds: "
                "the last records are published at the next start"
            )
        last.result()

    async def _last(self) -> None:
        if self._task is not None:
            self._stop.set()
            await asyncio.wait([self._task])
            self._task = None
        await self.publish()

    async def publish(self) -> None:
        """Publish everything that is committed now.

        Raises:
            EvidenceError: a file cannot be written, or the store not be read; nothing is signed.
            ProofError: the database was altered; nothing is signed.
        """
        async with self._turn:
            await self._source.follow()
            while self.size < self._source.size or self.published is None:
                end = min(self._source.size, self.size + ROUND_TILES * TILE_WIDTH)
                await self._publish(self.size, end)

    async def _publish(self, since: int, size: int) -> None:
        first = since - since % TILE_WIDTH
        entries = await self._source.entries(first, size)
        files: list[tuple[Tile, bytes]] = []
        for tile in tiles_of(size, since=since):
            if tile.level is None:
                at = tile.first - first
                files.append((tile, encode_bundle(entries[at : at + tile.width])))
            else:
                files.append((tile, hash_tile(self._source.tree, tile)))
        checkpoint = Checkpoint(self._signer.origin, size, self._source.tree.root(size))
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, files, checkpoint))
        try:
            note = await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # its thread writes on: no round may start beside it
            raise
        self.published, self.note = checkpoint, note
        self._signed_at = self._monotonic()

    async def _probe(self) -> None:
        """Ask a key that has had nothing to sign for a while whether it would.

        Raises:
            EvidenceError: it would not.
        """
        if self._trouble is None and self._monotonic() - self._signed_at < PROBE_SECONDS:
            return
        await asyncio.to_thread(self._signer.check)
        self._signed_at = self._monotonic()

    async def _run(self) -> None:
        while not self._stop.is_set():
            if self._behind_since is None:
                self._behind_since = self._monotonic()
            try:
                await self.publish()
                await self._probe()
                self._trouble = self._behind_since = None
                self._altered = False
            except RemitError as error:
                self._altered = isinstance(error, ProofError)
                if self._trouble is None:
                    _log.error("evidence.not_published", reason=str(error))
                self._trouble = f"the log cannot be published: {error}"
            except Exception as error:  # noqa: BLE001 - the next round tries again
                _log.exception("evidence.publisher_broke")
                self._trouble = f"the log cannot be published: {type(error).__name__}"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), PERIOD_SECONDS)

    # On a thread, from here on.

    def _read(self) -> bytes | None:
        try:
            return (self.folder / CHECKPOINT_PATH).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EvidenceError(f"cannot read the published log: {error.strerror}") from error

    def _require_tiles(self, size: int) -> None:
        """Forget the checkpoint where a file that it promises is gone: all are written again."""
        for tile in tiles_of(size):
            if not (self.folder / tile.path).is_file():
                _log.warning("evidence.tile_missing", path=tile.path)
                self.published = None
                return

    def _write(self, files: list[tuple[Tile, bytes]], checkpoint: Checkpoint) -> bytes:
        note = self._signer.sign(checkpoint.size, checkpoint.root)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for tile, data in files:
                path = self.folder / tile.path
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_file(path, data)
            write_file(self.folder / CHECKPOINT_PATH, note)
            for tile, _ in files:
                if tile.width == TILE_WIDTH:
                    self._drop_partials(self.folder / f"{tile.path}.p")
        except OSError as error:
            raise EvidenceError(f"cannot write the published log: {error.strerror}") from error
        return note

    def _drop_partials(self, folder: Path) -> None:
        """Remove a tile's partial forms: the full one is published (tlog-tiles, "Partial Tiles")."""
        if folder.is_dir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
