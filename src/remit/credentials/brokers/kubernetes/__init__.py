"""Broker `kubernetes`: tokens of service accounts."""
