"""HTTP egress: plain HTTP APIs behind the same decision, credential and evidence as MCP tools."""
