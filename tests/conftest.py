"""What every test shares: properties are never judged by the clock, nor pages by a worker's width."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import settings

# GNU readline, which a test worker may load, exports the size of a terminal that is not there.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

settings.register_profile("remit", deadline=None)
settings.load_profile("remit")

collect_ignore = ["cluster"]
"""Named on the command line alone, by `make real-kubernetes`: its server takes half an hour to build."""

_MEASURED = "measured"


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Print a measurement with the summary, whichever worker took it."""
    return lambda line: record_property(_MEASURED, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, line in report.user_properties:
                    if name == _MEASURED:
                        terminalreporter.write_line(str(line))
