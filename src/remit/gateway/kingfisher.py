"""A scanner with a maintained rule set: MongoDB's Kingfisher, in process (extra `leaks`).

It matches by rules and context and asks nobody whether a credential works. Its compiled rules are
kept in the state folder: the first start compiles them, which takes some seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kingfisher_sdk

from remit.gateway.leaks import Hit

RULES = Path(__file__).with_name("leak_rules.yml")
"""Our own, beside the bundled ones."""

_SCAN_SECONDS = 2.0


class Kingfisher:
    """Implements :class:`remit.gateway.leaks.Scanner`."""

    def __init__(self, cache: Path) -> None:
        """Compile the rules, or read them compiled from ``cache``. Takes seconds the first time."""
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        rules = kingfisher_sdk.Rules([RULES], cache_dir=str(cache))
        self._scanner = kingfisher_sdk.Scanner(rules, base64=True)

    def scan(self, text: str) -> Sequence[Hit]:
        """Return every credential in ``text``."""
        data = text.encode("utf-8", "surrogatepass")
        return [
            # The region as it stands: of what was encoded, the encoding.
            Hit(rule=each.rule_id, secret=_region(data, each.location))
            for each in self._scanner.scan(data, timeout=_SCAN_SECONDS)
            if each.visible
        ]


def _region(data: bytes, location: dict[str, int]) -> str:
    return data[location["start_offset"] : location["end_offset"]].decode("utf-8", "replace")
