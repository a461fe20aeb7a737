"""The enforcement points: between an agent and the tools it calls.

The gateway stands in front of MCP servers. It parses a request once, refuses what is ambiguous,
carries what it governs through :func:`remit.spine.perform`, and forwards bytes for the rest.
"""
