"""Draws the training curves of a log as one small SVG, without a plotting library."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

_WIDTH, _HEIGHT, _MARGIN = 640, 240, 44
_LOSS, _RATE = "#1f6feb", "#9aa4af"


def draw_curves(log: Path, target: Path) -> None:
    """Draw loss (logarithmic) and learning rate over the steps of a JSONL log."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in rows]
    losses = [math.log10(row["loss"]) for row in rows]
    low, high = math.floor(min(losses)), math.ceil(max(losses))
    begun = next((row["step"] for row in rows if row["phase"] == "traces"), steps[-1])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11" fill="#57606a">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for power in range(low, high + 1):
        y = _place([power], low, high, _HEIGHT - _MARGIN, 20)[0]
        parts.append(f'<path d="M{_MARGIN} {y}H{_WIDTH - 12}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{_MARGIN - 6}" y="{y + 4}" text-anchor="end">{10.0**power:g}</text>')
    across = _place(steps, 0, steps[-1], _MARGIN, _WIDTH - 12)
    edge = _place([begun], 0, steps[-1], _MARGIN, _WIDTH - 12)[0]
    parts.append(f'<path d="M{edge} 20V{_HEIGHT - _MARGIN}" stroke="#d0d7de" stroke-dasharray="3"/>')
    parts.append(f'<text x="{edge + 4}" y="32">traces</text>')
    peak = max(row["rate"] for row in rows)
    rates = _place([row["rate"] for row in rows], 0, peak, _HEIGHT - _MARGIN, 20)
    parts.append(_line(across, rates, _RATE))
    parts.append(_line(across, _place(losses, low, high, _HEIGHT - _MARGIN, 20), _LOSS))
    parts.append(
        f'<text x="{_MARGIN}" y="{_HEIGHT - 14}"><tspan fill="{_LOSS}">loss</tspan> and '
        f'<tspan fill="{_RATE}">learning rate (peak {peak:g})</tspan> over {steps[-1]} steps, '
        f"{rows[-1]['tokens'] / 1e6:.1f} million tokens</text></svg>"
    )
    target.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _place(values: Sequence[float], low: float, high: float, start: float, end: float) -> list[float]:
    return [round(start + (v - low) / (high - low) * (end - start), 1) for v in values]


def _line(xs: Sequence[float], ys: Sequence[float], colour: str) -> str:
    points = " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
