"""The card of a bundle: what it is, what it promises, and what the probe is ahead of, in Hugging Face
form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lynxstop.artifacts.front_matter import Measured, front_matter
from lynxstop.artifacts.policy import Policy

RIVALS = {
    "entropy": "entropy of the next token at the cue",
    "end_margin": "margin between the top token and the end of thinking",
    "min_logprob": "lowest token log-probability since the last cue",
    "position": "thinking tokens so far",
    "cue": "cues so far",
    "agreement_run": "run length of equal trial answers",
    "trial_confidence": "trial-answer confidence",
}
"""Cheaper signals that a probe has to beat, by name."""


def card(
    policy: Policy,
    training: Mapping[str, Any],
    measured: Sequence[Measured] = (),
    *,
    base_model: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """Write README.md of a bundle.

    Parameters
    ----------
    policy : Policy
    training : mapping
        `TrainedProbe.report()`, or that of a rule.
    measured : sequence of Measured
        One per certified level of all requests; none before calibration.
    base_model, license, datasets : optional
        Names as the Hub knows them.
    """
    words = ", ".join(f"`{word}`" for word in policy.cue_words)
    cues = words + (" and paragraph breaks" if policy.cue_paragraph else "")
    sampling = policy.sampling
    head = front_matter(
        policy.name, training, measured, base_model=base_model, license=license, datasets=datasets
    )
    parts = [
        f"{head}# {policy.name}",
        "Stops a reasoning model at a cue when the answer forced there is already the one it would end on.",
        "",
        "## Promise",
        *(
            [f"- {level.promise}" for level in measured]
            or ["Not calibrated yet: `lynxstop calibrate` certifies risk levels; until then nothing exits."]
        ),
        "",
        *_levels(policy),
        *_measured(measured),
        "## What it watches and forces",
        f"- cues: {cues}",
        f"- thinking: from `{'`, `'.join(policy.think_open)}` to `{'`, `'.join(policy.think_close)}`",
        f"- forced exit: `{policy.exit_text!r}`, {policy.cut} the cue",
        f"- guards: minimum {policy.min_tokens} thinking tokens, cooldown {policy.cooldown}, "
        f"{_thinning(policy)}budget {policy.budget}",
        *([f"- tilt: {policy.tilt:.4g} is taken off the score for each earlier cue"] if policy.tilt else []),
        f"- sampling: temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, top_k {sampling.top_k}",
        f"- collected with {policy.engine}, {policy.dtype}",
        "",
        f"## {'Probe' if training['layers'] else 'Rule'}",
        f"{_kind(training)}, target "
        f"`{training['target']}`, trained on {training['cues']} cues of {training['problems']} problems "
        f"({100 * training['rate']:.1f}% positive). Cross-validation never parts a problem.",
        "",
        "| signal | AUC |",
        "|---|---|",
        f"| **this {'probe' if training['layers'] else 'rule'}** | **{training['auc']:.3f}** |",
        *(f"| {RIVALS[name]} | {auc:.3f} |" for name, auc in training["rivals"].items()),
        "",
        *_search(training["search"]),
        "## Limits",
        "Nothing is promised about one given request, another mix of prompts, or a changed model, tokenizer, "
        "chat template, quantisation, engine or sampling. "
        "The fingerprint in "
        "`policy.json` is compared before anything is served.",
        "",
        "## Provenance",
        f"lynxstop {policy.provenance.lynxstop}, commit `{policy.provenance.commit}`, "
        f"{policy.provenance.created:%Y-%m-%d}, Python {policy.provenance.python}"
        + "".join(f", {name} {version}" for name, version in sorted(policy.provenance.packages.items()))
        + ".",
        "",
        f"- base model{f' {base_model}' if base_model else ''}: configuration "
        f"`{policy.fingerprint.config}`, weights `{policy.fingerprint.weights}`",
        f"- training data: `{policy.training_data_sha256}`, {training['problems']} problems",
        f"- probe: `{policy.probe_sha256}`" if policy.probe_sha256 else "- no probe",
        "",
    ]
    return "\n".join(parts)


def _measured(measured: Sequence[Measured]) -> list[str]:
    if not measured:
        return []
    head = "| risk | loss | problems | lost | upper limit | exits | thinking tokens saved |"
    rows = [
        f"| {v.risk:g} | {v.loss} | {v.problems} | {_share(v.lost, v.lost_interval)} | {_share(v.bound)} | "
        f"{_share(v.exited, v.exited_interval)} | {_share(v.saved)} |"
        for v in measured
    ]
    note = (
        "On the calibration problems, with exact 95% intervals of each share alone. The upper limit is the "
        "certificate's, at its own confidence."
    )
    return ["## Measured", note, "", head, "|---" * 7 + "|", *rows, ""]


def _share(value: float | None, interval: tuple[float, float] | None = None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2%}" + ("" if interval is None else f" ({interval[0]:.2%} to {interval[1]:.2%})")


def _thinning(policy: Policy) -> str:
    every = f"every {policy.stride} cues, " if policy.stride > 1 else ""
    return every + (f"at most {policy.max_points} cues, " if policy.max_points is not None else "")


def _levels(policy: Policy) -> list[str]:
    if not policy.levels:
        return []
    rows = ["| requests | risk | confidence | loss | method | threshold |", "|---|---|---|---|---|---|"]
    for level in policy.levels:
        whose = level.whose
        threshold = "never exit" if level.threshold == math.inf else f"{level.threshold:.4f}"
        cells = (whose, f"{level.risk:g}", f"{level.confidence:g}", level.loss, level.method, threshold)
        rows.append(f"| {' | '.join(cells)} |")
    return [*rows, ""]


def _kind(training: Mapping[str, Any]) -> str:
    if training["kind"] == "rule":
        signals = ", ".join(f"`{signal}`" for signal in training["signals"])
        return f"`{training['rule']}` on {signals}; no hidden states are read"
    named = {"logistic": "Logistic regression", "mlp": "MLP (256, 64)"}
    kind = named.get(training["kind"], f"`{training['kind']}`")
    return f"{kind} on hidden states of layer {_join(training['layers'])} at the cue token"


def _join(layers: Sequence[int]) -> str:
    return " and ".join(str(layer) for layer in layers)


def _search(search: Sequence[Mapping[str, Any]]) -> list[str]:
    if not search:
        return []
    penalties = sorted({line["C"] for line in search})
    found = {(tuple(line["layers"]), line["C"]): line["auc"] for line in search}
    layers = list(dict.fromkeys(tuple(line["layers"]) for line in search))
    head = "| layers | " + " | ".join(f"C = {penalty:g}" for penalty in penalties) + " |"
    rows = [
        f"| {_join(chosen)} | " + " | ".join(f"{found[chosen, penalty]:.3f}" for penalty in penalties) + " |"
        for chosen in layers
    ]
    title = "Layers and penalty tried (mean AUC over folds):"
    return [title, "", head, "|---" * (len(penalties) + 1) + "|", *rows, ""]
