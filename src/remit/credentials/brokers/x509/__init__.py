"""Broker `x509`: client certificates."""
