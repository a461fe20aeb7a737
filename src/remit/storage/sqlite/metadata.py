"""The tables of the embedded driver, declared by its adapters on one MetaData."""

from __future__ import annotations

from sqlalchemy import MetaData

METADATA = MetaData()
