"""Signals: numbers about the thinking so far, one per file, all streaming in O(1)."""
