"""Remit keeps AI agents within their remit."""

__version__ = "0.1.0"
