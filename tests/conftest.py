"""What every test shares: properties are never judged by the clock."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("remit", deadline=None)
settings.load_profile("remit")
