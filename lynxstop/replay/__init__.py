"""Recorded traces replayed: what a rule or a certified level would have done."""
