"""Compare rules over many splits of the same traces: one split decides little at small risks.

python benchmarks/rules_resplits.py DATA [--bundle probes/reasoner] [--rules lynx,combined,...] [--splits 20]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.losses import LOSSES
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.core.policy import StopPolicy
from lynxstop.recordings.storage import Recording
from lynxstop.replay.parts import PARTS
from lynxstop.replay.points import read_points, score_points, training_of
from lynxstop.rules.table import rule_named


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", type=Path, default=Path("probes/reasoner"))
    parser.add_argument("--rules", default="lynx,logprob-probe,run-probe,combined,thought-calibration")
    parser.add_argument("--risks", default="0.02,0.05")
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args()
    data, probe = Recording.open(options.data), Bundle.load(options.bundle).probe
    rules = [rule_named(name) for name in options.rules.split(",")]
    risks = [float(risk) for risk in options.risks.split(",")]
    keys = [key for rule in rules for key in rule.signals]
    policy = StopPolicy(exit_ids=data.meta.exit_ids)
    table = read_points(data, keys, probe.score(data.features(probe.layers)), policy)
    problems = sorted(set(table.problem_ids.tolist()))
    saved: dict[tuple[str, float], list[float]] = {}
    for seed in range(options.splits):
        order = np.random.default_rng(seed).permutation(len(problems))
        edges = (np.cumsum(list(PARTS.values()))[:-1] * len(problems)).astype(int)
        part_of = {problems[i]: part for part, own in enumerate(np.split(order, edges)) for i in own}
        part = np.array([part_of[name] for name in table.problem_ids.tolist()])
        train, calibration, test = (table.select(part == number) for number in range(3))
        training = training_of(train, data.meta.budget or data.meta.max_tokens, LOSSES["disagree"])
        for rule in rules:
            fitted = rule.fit(training)
            learnt, _ = score_points(fitted, train)
            certified = calibration.scored(score_points(fitted, calibration)[0], LOSSES["disagree"])
            tested, costs = score_points(fitted, test)
            for risk in risks:
                certificate = calibrate(
                    certified,
                    CalibrationOptions(risks=[risk], confidence=0.95, loss="disagree", seed=seed),
                    train_scores=learnt[~np.isnan(learnt)],
                    train_problems=train.problem_ids.tolist(),
                ).certificates[0]
                done = test.at(tested, certificate.threshold, costs)
                saved.setdefault((rule.name, risk), []).append(1 - done.net.sum() / done.full.sum())
    for risk in risks:
        best = np.array(saved["combined", risk]) if ("combined", risk) in saved else None
        print(f"\n| certified at {risk:.0%} | saved net | less than `combined` | `combined` ahead |")
        print("|---|---|---|---|")
        for rule in rules:
            own = np.array(saved[rule.name, risk])
            paired = (
                "| | |"
                if best is None
                else f"| {(best - own).mean():+.1%} | {int((best > own).sum())}/{len(own)} |"
            )
            print(f"| `{rule.name}` | {own.mean():.1%} {paired}")


if __name__ == "__main__":
    main()
