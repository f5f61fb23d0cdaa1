"""Rules: one score per decision point from signals, probes and trial answers; higher exits."""

from lynxstop.rules.base import Point, Rule, Score, Training, Trial

__all__ = ["Point", "Rule", "Score", "Training", "Trial"]
