"""Cost of every signal, and of rules as a session runs them, per thinking token.

python benchmarks/signals_step.py [--tokens 20000] [--cue 40]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from lynxstop.core.scorer import RequestScorer
from lynxstop.core.statistics import Statistics
from lynxstop.rules import Point, Rule, Training
from lynxstop.rules.served import serve
from lynxstop.rules.table import RULES
from lynxstop.signals.base import Signal
from lynxstop.signals.embedding import EmbeddingRedundancy
from lynxstop.signals.table import SIGNALS, signal

Stream = list[tuple[int, Statistics]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--cue", type=int, default=40, help="tokens between two cues")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    stream = [
        (rng.randrange(500), Statistics(*(rng.expovariate(1.0) for _ in range(3)), -rng.expovariate(1.0)))
        for _ in range(options.tokens)
    ]
    table = Table("signal or rule", "us per token", "us per decision point")
    vector = np.ones(384, np.float32)
    makers: dict[str, Callable[[], Signal]] = {name: lambda name=name: signal(name) for name in SIGNALS}
    makers["EmbeddingRedundancy, its embedder left out"] = lambda: EmbeddingRedundancy(lambda tokens: vector)
    for name, maker in makers.items():
        table.add_row(name, *(f"{value:.2f}" for value in of_signal(maker, stream, options.cue)))
    table.add_section()
    for name, rule in RULES.items():
        if "trial" not in rule.needs:
            fitted = rule.fit(training(rule, rng))
            table.add_row(name, *(f"{value:.2f}" for value in of_rule(fitted, stream, options.cue)))
    Console().print(table)


def of_signal(maker: Callable[[], Signal], stream: Stream, cue: int) -> tuple[float, float]:
    """Microseconds of `step`, and of `value` and `cue`."""

    def pass_over(looks: bool) -> float:
        one = maker()
        begin = time.process_time()
        for place, (token, statistics) in enumerate(stream):
            one.step(token, statistics)
            if looks and place % cue == 0:
                one.value()
                one.cue(0)
        return time.process_time() - begin

    return spent(pass_over, stream, cue)


def of_rule(rule: Rule, stream: Stream, cue: int) -> tuple[float, float]:
    """Microseconds of a judge's `step`, and of `look`, `score` and `cue`."""
    served = serve(rule)

    def pass_over(looks: bool) -> float:
        scorer: RequestScorer = served.start()
        begin = time.process_time()
        for place, (token, statistics) in enumerate(stream):
            scorer.step(token, statistics)
            if looks and place % cue == 0:
                scorer.score(scorer.snapshot(0.5))
                scorer.cue(0)
        return time.process_time() - begin

    return spent(pass_over, stream, cue)


def spent(pass_over: Callable[[bool], float], stream: Stream, cue: int) -> tuple[float, float]:
    """The fastest of five passes without and with decision points, as (per token, per decision point)."""
    plain, full = (min(pass_over(looks) for _ in range(5)) for looks in (False, True))
    points = -(-len(stream) // cue)
    return plain / len(stream) * 1e6, max(full - plain, 0.0) / points * 1e6


def training(rule: Rule, rng: random.Random) -> Training:
    """Random points: a fitted rule costs the same whatever it has learnt."""
    traces = [
        [
            Point({key: rng.gauss(0, 1) for key in rule.signals}, rng.gauss(0, 1), 50 * place)
            for place in range(5)
        ]
        for _ in range(60)
    ]
    losses = [np.array([float(rng.random() < 0.3) for _ in trace]) for trace in traces]
    return Training(traces, losses, [f"p{i}" for i in range(60)], [300] * 60, 900)


if __name__ == "__main__":
    main()
