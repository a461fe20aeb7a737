"""What every test shares: properties are never judged by the clock, nor pages by a worker's width."""

from __future__ import annotations

import os

from hypothesis import settings

# GNU readline, which a test worker may load, exports the size of a terminal that is not there.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

settings.register_profile("remit", deadline=None)
settings.load_profile("remit")
