"""A small OpenAI-compatible server that thinks, revises and fails on demand, for tests."""
