"""Broker `jwt`: access tokens that Remit signs itself."""
