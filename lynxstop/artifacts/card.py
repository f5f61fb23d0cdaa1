"""The card of a bundle: what it is, what it promises, and what the probe is ahead of, in Hugging Face
form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lynxstop.artifacts.bundle import Policy

_RIVALS = {
    "entropy": "entropy of the next token at the cue",
    "end_margin": "margin between the top token and the end of thinking",
    "min_logprob": "lowest token log-probability since the last cue",
    "position": "thinking tokens so far",
    "cue": "cues so far",
    "agreement_run": "run length of equal trial answers",
    "trial_confidence": "trial-answer confidence",
}


def card(policy: Policy, training: Mapping[str, Any], promises: Sequence[str] = ()) -> str:
    """Write README.md of a bundle.

    Parameters
    ----------
    policy : Policy
    training : mapping
        `TrainedProbe.report()`.
    promises : sequence of str
        One sentence per certified level; none before calibration.
    """
    words = ", ".join(f"`{word}`" for word in policy.cue_words)
    cues = words + (" and paragraph breaks" if policy.cue_paragraph else "")
    sampling = policy.sampling
    parts = [
        "---",
        "library_name: lynxstop",
        "license: apache-2.0",
        "tags: [early-exit, reasoning, conformal-risk-control]",
        "---",
        f"# {policy.name}",
        "Stops a reasoning model at a cue when the answer forced there is already the one it would end on.",
        "",
        "## Promise",
        *(
            _list(promises)
            or ["Not calibrated yet: `lynxstop calibrate` certifies risk levels; until then nothing exits."]
        ),
        "",
        *_levels(policy),
        "## What it watches and forces",
        f"- cues: {cues}",
        f"- thinking: from `{'`, `'.join(policy.think_open)}` to `{'`, `'.join(policy.think_close)}`",
        f"- forced exit: `{policy.exit_text!r}`, {len(policy.exit_ids)} tokens",
        f"- guards: minimum {policy.min_tokens} thinking tokens, cooldown {policy.cooldown}, "
        f"budget {policy.budget}",
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
        *(f"| {_RIVALS[name]} | {auc:.3f} |" for name, auc in training["rivals"].items()),
        "",
        *_search(training["search"]),
        "## Limits",
        "A threshold belongs to this model, tokenizer, chat template, sampling and mix of prompts. "
        "The fingerprint in "
        "`policy.json` is compared before anything is served.",
        "",
        "## Provenance",
        f"lynxstop {policy.provenance.lynxstop}, commit `{policy.provenance.commit}`, "
        f"{policy.provenance.created:%Y-%m-%d}; training data `{policy.training_data_sha256[:16]}`.",
        "",
    ]
    return "\n".join(parts)


def _list(promises: Sequence[str]) -> list[str]:
    return [f"- {promise}" for promise in promises]


def _levels(policy: Policy) -> list[str]:
    if not policy.levels:
        return []
    rows = ["| requests | risk | confidence | loss | method | threshold |", "|---|---|---|---|---|---|"]
    for level in policy.levels:
        whose = "all" if level.group is None else f"{level.column} {level.group}"
        threshold = "never exit" if level.threshold == math.inf else f"{level.threshold:.4f}"
        cells = (whose, f"{level.risk:g}", f"{level.confidence:g}", level.loss, level.method, threshold)
        rows.append(f"| {' | '.join(cells)} |")
    return [*rows, ""]


def _kind(training: Mapping[str, Any]) -> str:
    if training["kind"] == "rule":
        signals = ", ".join(f"`{signal}`" for signal in training["signals"])
        return f"`{training['rule']}` on {signals}; no hidden states are read"
    kind = {"logistic": "Logistic regression", "mlp": "MLP (256, 64)"}[training["kind"]]
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
