"""Draw the pictures of the docs from the shipped model and bundle: an exit in a trace, and the risk curve.

Run as ``python scripts/docs_pictures.py [FOLDER]``; by default the pictures go into docs/pictures.
"""

from __future__ import annotations

import html
import re
import sys
import textwrap
from pathlib import Path

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.certify import case_for
from lynxstop.calibration.evidence import read_evidence
from lynxstop.collect.texts import Texts
from lynxstop.core.types import Request, Sampling
from lynxstop.demo import held_out
from lynxstop.engines.transformers.loading import load_engine
from lynxstop.report.calibration import risk_figure, thinned

PROBLEM = 3
"""Of the held-out problems: one that goes on for a while after its answer is known."""
RISK = 0.02
COLUMNS, CHARACTER, LINE = 78, 7.25, 19
COLOURS = {"ink": "#57606a", "muted": "#8c959f", "c1": "#1f6feb", "c2": "#c2410c"}
"""Values that can be read on white and on black."""


def main(folder: Path) -> None:
    """Draw both."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.load(shipped.BUNDLE)
    (folder / "exit.svg").write_text(exit_picture(bundle))
    (folder / "risk.svg").write_text(risk_picture(bundle))


def risk_picture(bundle: Bundle) -> str:
    """Return the risk of the bundle at every threshold, as on the page of a calibration."""
    paths = [bundle.path / level.certificate for level in bundle.policy.pooled]
    certificates = [Certificate.load(path) for path in paths]
    evidence = next(paths[0].parent.glob("evidence-*.parquet"))
    case = case_for(read_evidence(evidence, certificates[0]), certificates[0])
    page = risk_figure(thinned(case), certificates)
    svg = page[page.index("<svg") : page.index("</svg>") + len("</svg>")]
    return re.sub(r"var\(--(\w+)\)", lambda found: COLOURS[found[1]], svg) + "\n"


def exit_picture(bundle: Bundle) -> str:
    """Return one full trace: its cues, their scores and the answers forced there, and where it would end."""
    problem = held_out.problems(PROBLEM + 1, None)[PROBLEM]
    loaded = load_engine(shipped.MODEL, bundle)
    texts = Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues)
    sampling = Sampling(**bundle.policy.sampling.model_dump(), seed=0)
    request = Request(problem.id, texts.prompt_ids(problem.prompt))
    (trace,) = loaded.engine.generate([request], sampling, record=True)
    (forced,) = loaded.engine.force_exits([trace], sampling)
    assert bundle.probe is not None
    assert trace.features is not None
    scores = bundle.probe.score(trace.features)
    threshold = bundle.policy.stop_policy().level(RISK).threshold
    drawn, begin, stopped = _Lines(), 0, False
    for line in textwrap.wrap(problem.prompt, COLUMNS):
        drawn.write(line, COLOURS["c1"])
    for event, answer, score in zip(trace.events, forced, scores.tolist(), strict=True):
        drawn.thought(texts.decode(trace.output_ids[begin : event.seen_at + 1]), stopped)
        begin = event.seen_at + 1
        said = texts.decode(answer.ids).split("}")[0]
        drawn.write(f"score {score:+.2f}, an answer forced here: {said}", COLOURS["muted"], right=True)
        if score > threshold and not stopped:
            drawn.rule(
                f"stopped here at {RISK:.0%}: {event.position} of {trace.thinking_tokens} thinking tokens"
            )
            stopped = True
    drawn.thought(texts.decode(trace.output_ids[begin:]), stopped)
    return drawn.svg(f"A trace of the shipped model, and where it is stopped at {RISK:.0%} risk")


class _Lines:
    """Lines of text below each other."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._y = 4

    def write(self, text: str, colour: str, *, right: bool = False) -> None:
        self._y += LINE
        x, anchor = (COLUMNS * CHARACTER, "end") if right else (6, "start")
        self._parts.append(
            f'<text x="{x:g}" y="{self._y}" text-anchor="{anchor}" fill="{colour}">{html.escape(text)}</text>'
        )

    def thought(self, text: str, stopped: bool) -> None:
        for line in textwrap.wrap(" ".join(text.split()), COLUMNS):
            self.write(line, COLOURS["muted"] if stopped else COLOURS["ink"])

    def rule(self, text: str) -> None:
        self._y += LINE
        end, middle = COLUMNS * CHARACTER, self._y - 5
        self._parts.append(f'<path d="M6 {middle}H{end:g}" stroke="{COLOURS["c2"]}" stroke-dasharray="5 4"/>')
        self.write(text, COLOURS["c2"])

    def svg(self, title: str) -> str:
        size = f'viewBox="0 0 {COLUMNS * CHARACTER + 12:g} {self._y + 12}"'
        style = 'font-family="ui-monospace, monospace" font-size="12"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(title)}" '
            f"{size} {style}>\n<title>{html.escape(title)}</title>\n" + "\n".join(self._parts) + "\n</svg>\n"
        )


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / "docs" / "pictures"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
