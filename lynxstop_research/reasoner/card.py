"""Writes the model's card from its measurements: ``python -m lynxstop_research.reasoner.card``."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lynxstop_research.reasoner.curves import draw_curves
from lynxstop_research.reasoner.sets import write_manifest

DATA = Path(__file__).resolve().parents[2] / "data"
Report = dict[str, Any]
Row = tuple[str, str, Callable[[Report], str], Callable[[Report], bool]]

_RIVALS = (
    "entropy",
    "position",
    "cue count",
    "run length",
    "lowest log-probability",
    "trial confidence",
)


def _gain(report: Report, half: str) -> float:
    return float(report[half]["full"] - report[half]["first_exit"])


def _probe(report: Report) -> float:
    return float(max(report["layers"]))


def _best_rival(report: Report) -> float:
    return float(max(report["rivals"][name] for name in _RIVALS))


def _damaged(report: Report) -> float:
    """Return the share from the most problems there are."""
    return float(report.get("sets", report)["damaged"])


def _show_damaged(report: Report) -> str:
    shown = f"{report['damaged']:.1%} of {report['problems']}"
    if sets := report.get("sets"):
        shown += f"; {sets['damaged']:.1%} of the {sets['problems']:,} of the shipped sets"
    return shown


# Requirement, what is asked, what was measured, whether that is met.
_REQUIREMENTS: tuple[Row, ...] = (
    (
        "Harder half: full trace against an exit at the first cue",
        "at least 8 points above",
        lambda r: f"{r['hard']['first_exit']:.3f} to {r['hard']['full']:.3f}",
        lambda r: _gain(r, "hard") >= 0.08,
    ),
    (
        "Easier half: the same",
        "about equal (within 4 points)",
        lambda r: f"{r['easy']['first_exit']:.3f} to {r['easy']['full']:.3f}",
        lambda r: _gain(r, "easy") <= 0.04,
    ),
    (
        "Cues in a trace",
        "3 to 15",
        lambda r: (
            f"{r['cues_3_to_15']:.1%} of traces; median {r['cues_percentiles']['50']:.0f}, "
            f"most {r['cues_percentiles']['100']:.0f}"
        ),
        lambda r: r["cues_3_to_15"] >= 0.95,
    ),
    (
        "Thinking tokens in a trace",
        "80 to 600",
        lambda r: (
            f"{r['tokens_80_to_600']:.1%} of traces; median {r['tokens_percentiles']['50']:.0f}, "
            f"most {r['tokens_percentiles']['100']:.0f}"
        ),
        lambda r: r["tokens_80_to_600"] >= 0.95,
    ),
    (
        "Wrong at the first cue, right at the end",
        "occurs",
        lambda r: f"{r['repaired']:.1%} of problems",
        lambda r: r["repaired"] > 0,
    ),
    (
        "Right answer that the next cue finds wrong",
        "occurs",
        lambda r: f"{r['right_to_wrong_steps']:.1%} of steps between cues",
        lambda r: r["right_to_wrong_steps"] > 0,
    ),
    (
        "Full thinking ends worse than it stood at some cue",
        "1 to 3% of problems",
        _show_damaged,
        lambda r: 0.01 <= _damaged(r) <= 0.03,
    ),
    (
        "A forced exit parses to an answer",
        "at least 99%",
        lambda r: f"{r['parsed_exits']:.2%} of {r['cues']} exits",
        lambda r: r["parsed_exits"] >= 0.99,
    ),
    (
        "Linear probe at the cue: AUC for a right exit, split by problem",
        "at least 0.85",
        lambda r: f"{_probe(r):.3f} (layer {r['best_layer']})",
        lambda r: _probe(r) >= 0.85,
    ),
    (
        "Ahead of the best single rival",
        "clearly",
        lambda r: f"{_probe(r):.3f} against {_best_rival(r):.3f}",
        lambda r: _probe(r) >= _best_rival(r) + 0.05,
    ),
    (
        "The oracle, stopping at the first right exit, saves thinking tokens",
        "at least half",
        lambda r: f"{r['oracle_saves']:.1%}",
        lambda r: r["oracle_saves"] >= 0.5,
    ),
    (
        "First-exit rule on the probe, tuned to 5% disagreement on other problems",
        "saves 30% or more",
        lambda r: (
            f"saves {r['first_exit']['probe']['saves']:.1%}, "
            f"disagrees on {r['first_exit']['probe']['disagrees']:.1%}"
        ),
        lambda r: r["first_exit"]["probe"]["saves"] >= 0.3,
    ),
)


def with_sets(measured: Report) -> Report:
    """Return the usual measurements, with those of whole collections where there are any."""
    return {**measured["usual"], **({"sets": measured["sets"]} if "sets" in measured else {})}


def requirements(report: Report) -> str:
    """Return the table of requirements, each with its measurement."""
    lines = ["| Requirement | Asked | Measured | Met |", "|---|---|---|---|"]
    for name, asked, measured, met in _REQUIREMENTS:
        lines.append(f"| {name} | {asked} | {measured(report)} | {'yes' if met(report) else '**no**'} |")
    return "\n".join(lines)


def signals(report: Report, shift: Report) -> str:
    """Return the table of AUCs of every layer and every rival."""
    lines = ["| Signal at the cue | AUC | on the harder half | on the shift level |", "|---|---|---|---|"]
    best = report["best_layer"]
    for layer, (auc, shifted) in enumerate(zip(report["layers"], shift["layers"], strict=True)):
        name = "embedding" if layer == 0 else f"after layer {layer}"
        if layer + 1 == len(report["layers"]):
            name += " and the final norm"
        hard = f"{report['hard_half']['probe']:.3f}" if layer == best else ""
        lines.append(f"| probe, {name} | {auc:.3f} | {hard} | {shifted:.3f} |")
    for name, auc in report["rivals"].items():
        hard, shifted = report["hard_half"][name], shift["rivals"][name]
        lines.append(f"| {name} | {auc:.3f} | {hard:.3f} | {shifted:.3f} |")
    together, shifted = report["rivals_together"], shift["rivals_together"]
    lines.append(f"| all but the regular expression, together | {together:.3f} | | {shifted:.3f} |")
    return "\n".join(lines)


def families(report: Report, shift: Report) -> str:
    """Return the table of accuracies by family and for the shift level."""
    lines = ["| Problems | first exit | second exit | full |", "|---|---|---|---|"]
    groups = {**report["families"], "easier half": report["easy"], "harder half": report["hard"]}
    groups |= {"all": report["all"], "shift level": shift["all"]}
    for name, row in groups.items():
        cells = " | ".join(f"{row[key]:.3f}" for key in ("first_exit", "second_exit", "full"))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def write_card(data: Path = DATA) -> None:
    """Fill the card's template, draw the curves and renew the manifest."""
    folder = data / "reasoner"
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    usual, shift = with_sets(measured), measured["shift"]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    filled = {
        "requirements": requirements(usual),
        "signals": signals(usual, shift),
        "families": families(usual, shift),
        "problems": str(usual["problems"]),
        "cues": str(usual["cues"]),
        "shift_problems": str(shift["problems"]),
        "shift_damaged": f"{shift['damaged']:.1%}",
        "temperature": str(usual["temperature"]),
        "steps": str(log[-1]["step"]),
        "tokens": f"{log[-1]['tokens'] / 1e6:.1f}",
        "minutes": f"{log[-1]['seconds'] / 60:.0f}",
        "megabytes": f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}",
    }
    _fill("card.md", filled, folder)
    draw_curves(folder / "log.jsonl", folder / "curves.svg")
    write_silent_card(data / "silent")
    write_manifest(data)


def write_silent_card(folder: Path) -> None:
    """Fill the card of the model that does not print its verdicts."""
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    filled = {
        "requirements": requirements(measured),
        "rivals": rivals(measured),
        "problems": str(measured["problems"]),
        "cues": str(measured["cues"]),
        "steps": str(last["step"]),
        "tokens": f"{last['tokens'] / 1e6:.1f}",
        "megabytes": f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}",
    }
    _fill("silent.md", filled, folder)


def _fill(name: str, filled: Mapping[str, str], folder: Path) -> None:
    """Write the card of a model from a template beside this file."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    for key, value in filled.items():
        text = text.replace("{{" + key + "}}", value)
    (folder / "README.md").write_text(text, encoding="utf-8")


def rivals(report: Report) -> str:
    """Return the table of what ranks exits, and what a first exit on it saves at 5% disagreement."""
    lines = ["| Signal at the cue | AUC | on the harder half | saves | disagrees |", "|---|---|---|---|---|"]
    rows = {f"probe, after layer {report['best_layer']}": ("probe", _probe(report))}
    rows |= {name: (name, auc) for name, auc in report["rivals"].items()}
    for name, (key, auc) in rows.items():
        hard, found = report["hard_half"][key], report["first_exit"][key]
        cells = f"{auc:.3f} | {hard:.3f} | {found['saves']:.1%} | {found['disagrees']:.1%}"
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Write the card; with `--measure`, measure the model first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="sample and measure first")
    if parser.parse_args().measure:
        # Measuring needs torch and scikit-learn; writing the card does not.
        from lynxstop_research.reasoner.measure import measure_all

        measure_all(DATA / "reasoner")
    write_card()


if __name__ == "__main__":
    main()
