"""The brokers: one folder a kind. Each is loaded only where the configuration names its kind."""
