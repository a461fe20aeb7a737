"""The brokers: one file a target. Each is loaded only where the configuration names its kind."""
