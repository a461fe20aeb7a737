"""Broker `openbao`: tokens and dynamic secrets of OpenBao, or of Vault."""
