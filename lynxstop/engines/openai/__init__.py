"""Traces and forced exits through any OpenAI-compatible server, as the proxy will serve it."""
