"""Calibration: from scored traces to certificates of the risk per request."""
