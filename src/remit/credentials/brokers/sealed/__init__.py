"""Broker `sealed`: long-lived keys that stand sealed."""
