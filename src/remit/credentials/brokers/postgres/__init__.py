"""Broker `postgres`: login roles, one a lease."""
