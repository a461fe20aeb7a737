"""SQL as a tool: one statement, read before it is decided, run under a role of its own."""
