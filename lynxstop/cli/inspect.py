"""`lynxstop inspect`: say what a bundle or a recorded data set holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json
from lynxstop.errors import StepError


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle or a recorded data set.")],
    model: Annotated[
        Path | None, typer.Option(help="Also check that the bundle belongs to this model folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a bundle or a recorded data set holds, and check it.

    **Examples**

    - `lynxstop inspect probes/reasoner`

    - `lynxstop inspect probes/reasoner --model data/reasoner`

    - `lynxstop inspect recorded/train --json`
    """
    if (path / "policy.json").exists():
        found = _bundle(path, model)
    elif (path / "meta.json").exists():
        found = _data(path)
    else:
        raise StepError(
            f"{path} is neither a bundle (policy.json) nor a recorded data set (meta.json).",
            hint="Record one with `lynxstop collect`, then make a bundle with `lynxstop train`.",
        )
    if json:
        _output.emit(found)
        return
    levels = found.pop("levels", None)
    rows = _output.table(str(path), "", "")
    for key, value in found.items():
        rows.add_row(key, str(value))
    _output.console.print(rows)
    if levels:
        ends = ["valid until"] if any(level["expires"] for level in levels) else []
        menu = _output.table(
            "Certified levels", "requests", "risk", "confidence", "loss", "method", "threshold", *ends
        )
        for level in levels:
            threshold = level["threshold"]
            menu.add_row(
                level["whose"],
                f"{level['risk']:g}",
                f"{level['confidence']:g}",
                level["loss"],
                level["method"],
                "never exit" if threshold == math.inf else f"{threshold:.4f}",
                *([_until(level)] if ends else []),
            )
        _output.console.print(menu)


def _until(level: dict[str, Any]) -> str:
    return f"{level['expires'] or ''}"[:10] + (" (expired)" if level["expired"] else "")


def _bundle(path: Path, model: Path | None) -> dict[str, Any]:
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.artifacts.expiry import expiry_dates
    from lynxstop.artifacts.fingerprint import fingerprint, require_same

    bundle = Bundle.load(path)
    policy = bundle.policy
    if model is not None:
        require_same(policy.fingerprint, fingerprint(model), f"The bundle {path}")
    ends = expiry_dates(bundle.path, policy)
    dates = {key: date.isoformat() for key, date in ends.dates.items()}
    return {
        "kind": "bundle",
        "name": policy.name,
        "layers": [] if bundle.probe is None else list(bundle.probe.layers),
        "width": 0 if bundle.probe is None else bundle.probe.width,
        "maps": 0 if bundle.probe is None else len(bundle.probe.affines),
        "rule": None if policy.rule is None else policy.rule.name,
        "target": policy.target,
        "cues": [*policy.cue_words, *(["paragraph break"] if policy.cue_paragraph else [])],
        "exit_text": policy.exit_text,
        "cut": policy.cut,
        "engine": policy.engine,
        "dtype": policy.dtype,
        "sampling": policy.sampling.model_dump(),
        "guards": {
            name: getattr(policy, name)
            for name in ("min_tokens", "cooldown", "stride", "max_points", "tilt", "budget")
        },
        "fingerprint": policy.fingerprint.model_dump(),
        "belongs_to_model": None if model is None else True,
        "created": policy.provenance.created.isoformat(),
        "commit": policy.provenance.commit,
        "levels": [
            {
                "risk": v.risk,
                "whose": v.whose,
                "sampling": None if v.sampling is None else v.sampling.model_dump(),
                "column": v.column,
                "group": v.group,
                "confidence": v.confidence,
                "loss": v.loss,
                "method": v.method,
                "threshold": v.threshold,
                "expires": dates.get((v.risk, v.served.whose)),
                "expired": ends.expired(v.risk, v.served.whose),
            }
            for v in policy.levels
        ],
    }


def _data(path: Path) -> dict[str, Any]:
    from lynxstop.recordings.storage import Recording
    from lynxstop.replay.thinned import guards_of

    data = Recording.open(path)
    traces = data.traces()
    fewest, most = data.samples
    return {
        "kind": "recorded data set",
        "traces": traces.num_rows,
        "problems": len(set(traces["problem_id"].to_pylist())),
        "cues": data.cues().num_rows,
        "layers": list(data.layers),
        "samples": fewest,
        "samples_most": most,
        "seed": data.meta.seed,
        "every_cue": data.whole,
        "guards": guards_of(data.meta),
        "digest": data.digest,
    }
