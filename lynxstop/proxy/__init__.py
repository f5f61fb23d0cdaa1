"""The proxy: early exit in front of any OpenAI-compatible server."""
