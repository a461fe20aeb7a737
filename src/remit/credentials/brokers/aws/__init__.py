"""Broker `aws`: sessions of an IAM role."""
