"""Rules that need trial answers: they are compared in replay and never served."""
