"""Labels beside points, placed where they cover neither points, nor curves, nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lynxstop.report.page import INK, MUTED

_FONT = 10.0
_DISTANCES = (11.0, 16.0, 24.0, 34.0, 46.0)
_DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DENSE = 400


def label_points(
    axes: Any, points: Sequence[tuple[float, float]], texts: Sequence[str], curve: ArrayLike = ()
) -> None:
    """Write a text beside each point.

    Parameters
    ----------
    axes : matplotlib Axes
        With its limits and curves final.
    points : sequence of (x, y)
    texts : sequence of str
    curve : array of shape (n, 2), optional
        Corners of a line that labels should not lie on.
    """
    if not points:
        return
    axes.figure.draw_without_rendering()
    scale = axes.figure.dpi / 72.0
    to_points = axes.transData.transform
    marks = to_points(np.asarray(points, float)) / scale
    corners = np.asarray(curve, float).reshape(-1, 2)
    taken = np.concatenate([marks, _along(to_points(corners) / scale)])
    frame = axes.bbox.bounds
    low = np.array(frame[:2]) / scale
    high = low + np.array(frame[2:]) / scale
    boxes: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for mark, point, text in zip(marks, points, texts, strict=True):
        half = np.array([0.31 * _FONT * len(text) + 1.5, 0.6 * _FONT])
        offset = min(
            (np.array(d) * (r + half * np.abs(d) - 8) for r, d in product(_DISTANCES, _DIRECTIONS)),
            key=lambda by: _cost(mark + by, half, taken, boxes, low, high) + 0.01 * float(np.abs(by).sum()),
        )
        boxes.append((mark + offset, half))
        far = float(np.abs(offset).max()) > 2.2 * _FONT
        axes.annotate(
            text,
            point,
            xytext=tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            color=INK,
            fontsize=_FONT,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.6} if far else None,
        )


def _along(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points along a line, closely set."""
    corners = corners[np.isfinite(corners).all(axis=1)]
    if len(corners) < 2:
        return corners
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    places = np.linspace(0.0, way[-1], _DENSE)
    return np.stack([np.interp(places, way, corners[:, i]) for i in (0, 1)], axis=1)


def _cost(
    centre: NDArray[np.float64],
    half: NDArray[np.float64],
    taken: NDArray[np.float64],
    boxes: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> float:
    """Points covered, labels covered, and whether it leaves the axes."""
    covered = int((np.abs(taken - centre) < half + 3.0).all(axis=1).sum())
    others = sum(bool((np.abs(centre - other) < half + size).all()) for other, size in boxes)
    outside = bool((centre - half < low).any() or (centre + half > high).any())
    return covered + 200.0 * others + 200.0 * outside
