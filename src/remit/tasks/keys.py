"""The keys that templates and requests share, read strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def request(data: Mapping[str, Any], build: Callable[..., T]) -> T:
    """Read a request's keys and hand them to ``build``."""
    raise NotImplementedError
