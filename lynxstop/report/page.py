"""One self-contained HTML page: sections of text, tables and figures, light or dark by the reader's system.

Figures are matplotlib SVG inside the page. They are drawn in marker colours, which become CSS variables.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lynxstop.extras import need

INK, MUTED = "#000001", "#000002"
COLOURS = ("#000011", "#000012", "#000013", "#000014", "#000015")
"""Marker colours to draw with; the page gives them their light and dark values."""

_VARIABLES = {INK: "--ink", MUTED: "--muted"} | {mark: f"--c{i}" for i, mark in enumerate(COLOURS, 1)}

_LIGHT = """--paper: #ffffff; --ink: #1c2127; --muted: #6b7480; --line: #dfe3e8; --box: #f4f6f8;
  --c1: #1f6feb; --c2: #c2410c; --c3: #15803d; --c4: #7e22ce; --c5: #a16207;"""
_STYLE = f"""
:root {{ {_LIGHT} color-scheme: light dark; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{
  --paper: #14181d; --ink: #e4e8ed; --muted: #98a2ad; --line: #2c333b; --box: #1d232a;
  --c1: #6cb2ff; --c2: #ff9b5e; --c3: #5fd38a; --c4: #cf9bff; --c5: #e5c04b; }} }}
body {{ margin: 0 auto; max-width: 62rem; padding: 2rem clamp(.8rem, 4vw, 1.2rem) 4rem;
  background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
  overflow-wrap: break-word; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 .6rem; }}
h2 {{ font-size: 1.15rem; margin: 2.4rem 0 .6rem; }} h3 {{ font-size: 1rem; margin: 0 0 .4rem; }}
p {{ max-width: 46rem; }} p.lead {{ font-size: 1.1rem; }}
p.note, figcaption, footer {{ color: var(--muted); }}
pre {{ background: var(--box); border: 1px solid var(--line); border-radius: .3rem; padding: .6rem .8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
.wide {{ overflow-x: auto; margin-bottom: 1.8rem; }}
th, td {{ padding: .3rem .9rem .3rem 0; text-align: right;
  border-bottom: 1px solid var(--line); }}
th:first-child, td:first-child {{ text-align: left; }} th {{ font-weight: 600; }}
.figures {{ display: grid; gap: 1.8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }}
figure {{ margin: 0; min-width: 0; overflow-x: auto; }}
figure svg {{ width: 100%; min-width: 20rem; max-width: 46rem; height: auto; }}
svg text {{ font-family: system-ui, sans-serif; }}
figcaption {{ font-size: .9rem; }} footer {{ margin-top: 3rem; font-size: .85rem; }}
@media print {{ body {{ max-width: none; padding: 0; font-size: 11pt; }}
  figure, tr, pre {{ break-inside: avoid; }} h2, h3 {{ break-after: avoid; }}
  .wide {{ overflow-x: visible; }} }}
"""

_RC = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass
class Page:
    """A page under construction; the methods add parts in reading order."""

    title: str
    lead: str = ""
    footer: str = ""
    _parts: list[str] = field(default_factory=list)

    def section(self, title: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(title)}</h2>")

    def text(self, text: str, *, note: bool = False) -> None:
        """Add a paragraph; `note` sets it back."""
        opening = '<p class="note">' if note else "<p>"
        self._parts.append(f"{opening}{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Add a command or another text to copy."""
        self._parts.append(f"<pre><code>{html.escape(text)}</code></pre>")

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Add a table: the first column left, the others right."""
        head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
        cells = (("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)) for row in rows)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        self._parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def figures(self, *figures: str) -> None:
        """Add figures made by `figure`, side by side where there is room."""
        self._parts.append(f'<div class="figures">{"".join(figures)}</div>')

    def render(self) -> str:
        """Return the whole page."""
        title = html.escape(self.title)
        lead = f'<p class="lead">{html.escape(self.lead)}</p>' if self.lead else ""
        footer = f"<footer>{html.escape(self.footer)}</footer>" if self.footer else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{_STYLE}</style></head>\n"
            f"<body><h1>{title}</h1>{lead}\n" + "\n".join(self._parts) + f"\n{footer}</body></html>\n"
        )


def figure(
    title: str,
    caption: str,
    draw: Callable[[Any], None],
    *,
    size: tuple[float, float] = (5.2, 3.6),
    legend: str | None = None,
) -> str:
    """Draw a figure; what has a label goes into a legend above the axes, where it covers nothing.

    Parameters
    ----------
    title : str
        The reader's question, shown above the axes and read out to those who cannot see them.
    caption : str
        How to read it.
    draw : callable
        Draws on a matplotlib Axes, in `INK`, `MUTED` and `COLOURS`.
    size : (width, height)
        In inches; the page scales the figure to its column.
    legend : str, optional
        Title of the legend.
    """
    matplotlib = need("matplotlib", "report")
    figures = need("matplotlib.figure", "report")
    with matplotlib.rc_context({**_RC, "svg.hashsalt": title}):
        made = figures.Figure(figsize=size, layout="constrained")
        axes = made.add_subplot()
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                title=legend,
                loc="lower left",
                bbox_to_anchor=(0.0, 1.02),
                ncols=max(1, int(size[0] // 2)),
                borderaxespad=0.0,
                fontsize=10,
                handlelength=1.4,
                columnspacing=1.2,
            )
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for mark, variable in _VARIABLES.items():
        svg = svg.replace(mark, f"var({variable})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    heading = f"<h3>{html.escape(title)}</h3>"
    return f"<figure>{heading}{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"
