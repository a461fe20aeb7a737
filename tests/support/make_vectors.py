"""Writes the stored packs of ``tests/vectors/proof`` anew: only where a format changed on purpose.

Run ``python tests/support/make_vectors.py``, and bring the examples of docs/spec in line.
"""

from dataclasses import replace
from pathlib import Path

from packs import LOG, WITNESS, Tale, jwk, tale
from recovery import recovered

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "proof"


def _told(*, sealed: bool = True) -> Tale:
    told = tale(sealed=sealed)
    told.witnesses = (WITNESS,)
    told.disclose = frozenset({"prompt", "facts"})
    return told


def main() -> None:
    """Write each stored pack, and the keys to check them with."""
    told = _told()
    (other,) = [key for key in recovered(told.mandate) if key != jwk()]
    unsealed = _told()
    unsealed.steps.pop()
    packs = {
        "honest": told.data(),
        "open": _told(sealed=False).data(),
        "ended_unsealed": unsealed.data(),
        "mandate_key_computed": told.data(lambda pack: replace(pack, keys=(other,))),
    }
    for name, data in packs.items():
        (VECTORS / f"{name}_pack.json").write_bytes(data)
    keys = (LOG.verifier.vkey, WITNESS.verifier.vkey)
    (VECTORS / "vkeys.txt").write_text("".join(f"{key}\n" for key in keys))


if __name__ == "__main__":
    main()
