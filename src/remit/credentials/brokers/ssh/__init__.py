"""Broker `ssh`: OpenSSH user certificates."""
