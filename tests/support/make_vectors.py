"""Writes the stored packs of ``tests/vectors/proof`` anew: only where a format changed on purpose.

Run ``python tests/support/make_vectors.py``, and bring the examples of docs/spec in line.
"""

from pathlib import Path

from packs import LOG, WITNESS, tale

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "proof"


def main() -> None:
    """Write each stored pack, and the keys to check them with."""
    told = tale()
    told.witnesses = (WITNESS,)
    told.disclose = frozenset({"prompt", "facts"})
    (VECTORS / "honest_pack.json").write_bytes(told.data())
    keys = (LOG.verifier.vkey, WITNESS.verifier.vkey)
    (VECTORS / "vkeys.txt").write_text("".join(f"{key}\n" for key in keys))


if __name__ == "__main__":
    main()
