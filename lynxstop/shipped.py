"""Paths of the shipped model, problems, bundles and recipes: in the wheel, or in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_WHEEL = _PACKAGE / "shipped"
_CHECKOUT = _PACKAGE.parent

MODEL = _WHEEL / "reasoner" if _WHEEL.is_dir() else _CHECKOUT / "data" / "reasoner"
PROBLEMS = _WHEEL / "problems" if _WHEEL.is_dir() else _CHECKOUT / "data" / "problems"
BUNDLE = _WHEEL / "bundle" if _WHEEL.is_dir() else _CHECKOUT / "probes" / "reasoner"
STREAM_BUNDLE = _WHEEL / "stream-bundle" if _WHEEL.is_dir() else _CHECKOUT / "probes" / "reasoner-stream"
RECIPES = _WHEEL / "recipes" if _WHEEL.is_dir() else _CHECKOUT / "probes" / "recipes"
