"""Cost of the core per generated token, and of compiling a large vocabulary.

python benchmarks/core_step.py [--tokens 150000]
"""

from __future__ import annotations

import argparse
import random
import time

import tiktoken
from rich.console import Console
from rich.table import Table

from lynxstop.core.cues import CUE_SETS, CueSet, compile_cues
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.session import Session
from lynxstop.core.surface import token_surfaces
from lynxstop.core.thinking import FAMILIES, compile_thinking
from lynxstop.core.watch import Watch

TEXT = "so the answer is 42 wait hmm, let me check: alternatively x squared plus ünïcödé 等等\n\n"


def vocabulary(size: int, seed: int) -> tiktoken.Encoding:
    """A byte-level vocabulary made by merging random pairs, with lengths like those of real ones."""
    rng = random.Random(seed)
    pieces = [bytes([byte]) for byte in range(256)]
    pieces += [
        piece for word in TEXT.split(" ") for piece in (word.encode(), b" " + word.encode()) if len(piece) > 1
    ]
    ranks = dict.fromkeys(pieces)
    while len(ranks) < size:
        merged = rng.choice(pieces) + rng.choice(pieces)
        if len(merged) <= 16 and merged not in ranks:
            ranks[merged] = None
            pieces.append(merged)
    special = {text: size + i for i, text in enumerate(("<think>", "</think>", "<|im_end|>"))}
    mergeable = {piece: i for i, piece in enumerate(ranks)}
    return tiktoken.Encoding(
        "synthetic", pat_str=r"\s?\S+|\s", mergeable_ranks=mergeable, special_tokens=special
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoding = vocabulary(options.tokens, options.seed)

    table = Table("cue set", "surfaces, s", "compile, s", "states", "columns", "MB", "ns per token")
    clock = time.perf_counter
    for name in ("lynx", "en", "zh", "every set"):
        cues = CUE_SETS.get(name, sum_of_all())
        begin = clock()
        surfaces = token_surfaces(encoding)
        read = clock()
        watch = Watch(compile_thinking(FAMILIES["think"], surfaces), compile_cues(cues, surfaces))
        done = clock()
        automaton = watch.cues.automaton
        states, columns = automaton.table.shape
        size = (automaton.nbytes + watch.thinking.automaton.nbytes) / 1e6
        table.add_row(
            name, f"{read - begin:.2f}", f"{done - read:.2f}", str(states), str(columns), f"{size:.1f}",
            f"{step_ns(watch, encoding, options.seed):.0f}",
        )  # fmt: skip
    Console().print(table)


def sum_of_all() -> CueSet:
    union = CUE_SETS["lynx"]
    for cues in CUE_SETS.values():
        union |= cues
    return union


def step_ns(watch: Watch, encoding: tiktoken.Encoding, seed: int, steps: int = 100_000) -> float:
    """Nanoseconds per `read` and `decide` on a stream of random tokens with one cue in twenty."""
    rng = random.Random(seed)
    cue = encoding.encode_single_token(" wait")
    stream = [cue if rng.random() < 0.05 else rng.randrange(encoding.n_vocab - 3) for _ in range(steps)]
    opened, closed = (encoding.encode_single_token(text) for text in ("<think>", "</think>"))
    policy = StopPolicy(exit_ids=(closed,), levels=(Level(0.05, 1.0),), cooldown=8)
    best = float("inf")
    for _ in range(3):
        session = Session(watch, policy, (opened,), risk=0.05)
        begin = time.perf_counter()
        for token in stream:
            session.decide(0.0 if session.read(token) else None)
        best = min(best, time.perf_counter() - begin)
    return best / steps * 1e9


if __name__ == "__main__":
    main()
