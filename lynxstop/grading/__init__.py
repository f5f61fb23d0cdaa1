"""Grading: are two answers the same? Yes, no or unknown."""
