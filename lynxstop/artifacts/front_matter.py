"""The head of a card, in YAML as the Hub reads it.

Values are written as JSON, which is YAML: nothing in a name can break out of its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FENCE = "---\n"


@dataclass(frozen=True, slots=True)
class Measured:
    """A certified level in numbers; intervals are exact (Clopper-Pearson) at 95%, None where there is none.

    Parameters
    ----------
    promise : str
    risk, confidence : float
    loss : str
    problems : int
        That it was calibrated on.
    lost, exited : float
        Share of the problems whose exit was a loss, and of those that exited.
    lost_interval, exited_interval : tuple of float, optional
    bound : float, optional
        Upper limit of the risk at the certificate's own confidence.
    saved : float, optional
        Share of thinking tokens saved.
    at : str, optional
        How the requests are sampled, where that is not the bundle's own sampling.
    """

    promise: str
    risk: float
    confidence: float
    loss: str
    problems: int
    lost: float
    exited: float
    lost_interval: tuple[float, float] | None
    exited_interval: tuple[float, float] | None
    bound: float | None
    saved: float | None
    at: str | None = None


def front_matter(
    name: str,
    training: Mapping[str, Any],
    measured: Sequence[Measured] = (),
    *,
    base_model: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """Write the head of a card.

    Parameters
    ----------
    name : str
        Of the bundle.
    training : mapping
        Its training report.
    measured : sequence of Measured
    base_model, license, datasets : optional
        Names as the Hub knows them; left out when not given.
    """
    facts: dict[str, Any] = {
        "library_name": "lynxstop",
        "tags": ["early-exit", "reasoning", "conformal-risk-control"],
        "base_model": base_model,
        "license": license,
        "datasets": list(datasets) or None,
        "model-index": [{"name": name, "results": [_result(training, measured)]}],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in facts.items() if value is not None]
    return _FENCE + "\n".join(lines) + "\n" + _FENCE


def _result(training: Mapping[str, Any], measured: Sequence[Measured]) -> dict[str, Any]:
    metrics = [
        {
            "type": "roc_auc",
            "name": f"AUC of foreseeing `{training['target']}`, out of fold",
            "value": round(training["auc"], 4),
        }
    ]
    for level in measured:
        at = f"at the certified {level.risk:g}" + ("" if level.at is None else f", {level.at}")
        for what, value, interval in (
            (level.loss, level.lost, level.lost_interval),
            ("exits", level.exited, level.exited_interval),
            ("thinking tokens saved", level.saved, None),
        ):
            if value is None:
                continue
            span = "" if interval is None else f", 95% interval {interval[0]:.4f} to {interval[1]:.4f}"
            metrics.append(
                {
                    "type": what.replace(" ", "_"),
                    "name": f"{what} {at}, share of {level.problems} calibration problems{span}",
                    "value": round(value, 4),
                }
            )
    return {
        "task": {"type": "text-generation", "name": "Early exit of reasoning"},
        "dataset": {"type": "private", "name": "calibration problems of this bundle"},
        "metrics": metrics,
    }
