"""The page of `lynxstop certify`: what was certified, what it saves on held-out problems, how to serve it."""

from __future__ import annotations

from typing import Any

from lynxstop._version import __version__
from lynxstop.calibration.bounds import clopper_pearson_upper
from lynxstop.report.calibration import add_calibration
from lynxstop.report.page import Page
from lynxstop.workflows.certify import CertifiedModel


def certified_report(made: CertifiedModel) -> str:
    """Render a certified model as one HTML page."""
    pooled = made.calibration.pooled
    page = Page(
        title=f"Early exit for {made.bundle.policy.name}",
        lead=next((one.promise for one in pooled if not one.refused), pooled[-1].promise),
        footer=f"lynxstop {__version__}. `lynxstop verify {made.bundle.path}` recomputes the certificates.",
    )
    add_certified(page, made)
    return page.render()


def add_certified(page: Page, made: CertifiedModel) -> None:
    """Add how it is served, what it does on held-out problems, and what the certificates rest on."""
    if made.tried > 1:
        page.text(
            f"This is calibration {made.tried} on these problems, and a certificate counts one: the promise "
            "does not hold for the best of them."
        )
    page.section("How is it served?")
    if made.serve is None:
        page.text("Not yet: no level exits. More problems, or a higher risk, may change that.")
    else:
        page.code(made.serve)
    page.section("What does it do on problems that it has not seen?")
    if made.held_out:
        rows = [_held_out(row) for row in made.held_out]
        page.table(
            (
                "risk",
                "stopped early",
                "answers that differ",
                "limit",
                "tokens saved",
                "accuracy full",
                "early",
            ),
            rows,
        )
        page.text(
            f"{made.held_out[0]['n_problems']} held-out problems, replayed; the limit of the share that "
            "differs is an exact upper limit at 95% confidence, of each level alone and from these problems "
            "alone.",
            note=True,
        )
    else:
        page.text("No problems were left to hold out.")
    page.section("Were there enough problems?")
    page.table(("part", "problems"), list(made.problems.items()))
    for sentence in made.outlook.sentences():
        page.text(sentence)
    add_calibration(page, made.calibration, logits=made.bundle.probe is not None)


def _held_out(row: dict[str, Any]) -> tuple[object, ...]:
    n, lost = row["n_problems"], row["disagree"]
    return (
        f"{100 * row['risk']:g}%",
        f"{row['exits']} of {n}",
        f"{lost} of {n}",
        f"{float(clopper_pearson_upper(lost, n, 0.05)):.1%}",
        f"{row['saved']:.1%}",
        *(
            "unknown" if row[key] is None else f"{row[key]:.1%}"
            for key in ("accuracy_full", "accuracy_early")
        ),
    )
