"""The composition root: configuration in, a running authority out."""
