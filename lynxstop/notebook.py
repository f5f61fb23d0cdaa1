"""How results look in a notebook: small HTML tables, and curves as SVG."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_WIDTH, _HEIGHT, _EDGE = 360.0, 150.0, 26.0


def table_html(
    title: str, headers: Sequence[str], rows: Iterable[Sequence[object]], note: str = "", curve: str = ""
) -> str:
    """Return a titled table, with a note and a curve below it."""
    head = "".join(f"<th style='text-align:left'>{html.escape(header)}</th>" for header in headers)
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left'>{html.escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return (
        f"<div><strong>{html.escape(title)}</strong><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{curve}{f'<p>{html.escape(note)}</p>' if note else ''}</div>"
    )


def curve_html(
    x: Sequence[float],
    y: Sequence[float],
    *,
    across: str,
    up: str,
    level: float | None = None,
    point: tuple[float, float] | None = None,
) -> str:
    """Draw a curve as SVG in the notebook's own text colour.

    Parameters
    ----------
    x, y : sequence of float
        Corners of the line, finite.
    across, up : str
        Names of the axes.
    level : float, optional
        A dashed horizontal line.
    point : (x, y), optional
        A dot.
    """
    if len(x) < 2:
        return ""
    left, right = min(x), max(x)
    top = max([*y, level or 0.0]) or 1.0

    def place(a: float, b: float) -> tuple[float, float]:
        share = (a - left) / ((right - left) or 1.0)
        return (
            _EDGE + share * (_WIDTH - 2 * _EDGE),
            _HEIGHT - _EDGE - min(b / top, 1.0) * (_HEIGHT - 2 * _EDGE),
        )

    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(a, b) for a, b in zip(x, y, strict=True)))
    parts = [f"<polyline points='{path}' fill='none' stroke='#1f6feb' stroke-width='1.6'/>"]
    if level is not None:
        _, height = place(left, level)
        parts.append(
            f"<line x1='{_EDGE}' x2='{_WIDTH - _EDGE}' y1='{height:.1f}' y2='{height:.1f}' "
            "stroke='currentColor' stroke-dasharray='4 3' stroke-width='0.8'/>"
        )
    if point is not None:
        px, py = place(*point)
        parts.append(f"<circle cx='{px:.1f}' cy='{py:.1f}' r='3.5' fill='#c2410c'/>")
    texts = f"<text x='{_WIDTH / 2}' y='{_HEIGHT - 6}' text-anchor='middle'>{html.escape(across)}</text>"
    texts += f"<text x='{_EDGE}' y='14'>{html.escape(up)}, up to {top:.3g}</text>"
    return (
        f"<svg role='img' aria-label='{html.escape(up)} by {html.escape(across)}' "
        f"viewBox='0 0 {_WIDTH} {_HEIGHT}' "
        f"style='max-width:{_WIDTH}px;width:100%;font:11px sans-serif;fill:currentColor'>"
        f"{''.join(parts)}{texts}</svg>"
    )
