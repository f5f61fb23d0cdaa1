"""The HTTP client: connections to a server, server-sent events, headers."""
