"""Broker `github`: tokens of a GitHub App's installation."""
