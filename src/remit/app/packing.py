"""Gathers a task's evidence and writes it as one pack."""

from __future__ import annotations

from remit.app.compose import House
from remit.evidence.export import gather
from remit.evidence.packs import build_pack


async def export(house: House, task: str) -> bytes:
    """Return a task's evidence pack.

    Raises:
        NotFoundError: the log has no record of such a task.
        EvidenceError: the log cannot be read or published.
        ProofError: what is stored is not what was recorded.
    """
    gathered = await gather(house.authority.evidence, task)
    return build_pack(
        gathered,
        jwks=house.trust_domain.jwks(),
        bundles={digest: house.bundles.files(digest) for digest in gathered.bundles},
    )
