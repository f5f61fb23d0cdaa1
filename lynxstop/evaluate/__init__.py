"""What early exit did to a set of requests: outcomes, their summary, and replay of recorded traces."""
