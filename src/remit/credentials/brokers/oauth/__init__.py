"""Broker `oauth`: access tokens of an external authorization server."""
