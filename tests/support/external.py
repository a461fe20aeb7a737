"""Cases that nobody here wrote, read from where REMIT_EXTERNAL_CASES points."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"


def cases(name: str) -> Path:
    """Return the path of one external file or folder; skip, saying so, where it is not there.

    With REMIT_REQUIRE_EXTERNAL=1, as in CI, a missing file fails instead.
    """
    path = Path(os.environ.get("REMIT_EXTERNAL_CASES", _DEFAULT)) / name
    if not path.exists():
        reason = f"external cases `{name}` are not here: set REMIT_EXTERNAL_CASES to their folder"
        if os.environ.get("REMIT_REQUIRE_EXTERNAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
