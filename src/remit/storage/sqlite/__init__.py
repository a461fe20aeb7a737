"""The embedded driver: one SQLite file behind one ordered writer."""
