"""A scripted engine and tokenizer: real small objects that know no model."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.core.cues import CueSet
from lynxstop.core.exits import CueEvent
from lynxstop.core.policy import StopPolicy
from lynxstop.core.thinking import Delimiters
from lynxstop.core.types import Answer, Generation, Sampling, Signals, Tokens
from lynxstop.recordings.problems import Problem

EXIT = "</think>\\boxed{"
LAYERS, HIDDEN = (1, 3), 4


class CharacterTokenizer:
    """One token per character."""

    chat_template = "user turn"

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        return f"{messages[0]['content']}<think>"

    def encode(self, text, add_special_tokens):
        return [ord(character) for character in text]

    def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
        return "".join(map(chr, ids))


@dataclass
class ScriptedEngine:
    """Thinks "wait." up to four times and answers 0, 1 or 2, as the id says; `pause` is per trace."""

    id: ClassVar[str] = "scripted"
    policy: StopPolicy = field(default_factory=lambda: StopPolicy(exit_ids=tuple(map(ord, EXIT)), budget=500))
    layers: tuple[int, ...] = LAYERS
    width: int = len(LAYERS) * HIDDEN
    pause: float = 0.0
    exits_at_once: int | None = 8
    generated: list[str] = field(default_factory=list)

    def generate(self, requests, sampling, *, record=False):
        for request in reversed(requests):
            time.sleep(self.pause)
            self.generated.append(request.id)
            yield self._think(request, sampling)

    def force_exits(self, generations, sampling, cuts=None):
        return [
            [
                Answer(tuple(map(ord, f"{_draw(g.request.id, cut) % 3}}}.")), (-0.1, -0.2, -0.3), "stop")
                for cut in places
            ]
            for g, places in zip(generations, cuts, strict=True)
        ]

    def _think(self, request, sampling):
        number = _draw(request.id, sampling.seed)
        cues = number % 5
        text = "wait." * cues + EXIT + f"{number % 3}}}"
        events = [CueEvent(5 * i + 3, 5 * i + 4, 5 * i + 4, float("nan"), True) for i in range(cues)]
        noise = np.random.default_rng(number)
        return Generation(
            request, list(map(ord, text)), 5 * cues, "stop", events, None,
            noise.normal(size=(cues, self.width)).astype(np.float32),
            [Signals(*noise.random(5).tolist()) for _ in events], [],
        )  # fmt: skip


@dataclass
class BlackBoxEngine(ScriptedEngine):
    """Shows no hidden states, only statistics: the top gap tells where the answer is the final one."""

    layers: tuple[int, ...] = ()
    width: int = 0

    def _think(self, request, sampling):
        generation = super()._think(request, sampling)
        noise, count = np.random.default_rng(_draw("noise", request.id)), len(generation.output_ids)
        statistics = noise.random((count, 4)).astype(np.float32)
        final = _draw(request.id, sampling.seed) % 3
        for event in generation.events:
            statistics[event.index, 1] += 2.0 * (_draw(request.id, event.seen_at) % 3 == final)
        generation.signals = [
            Signals(entropy, top_gap, end_margin, -1.0, -0.5)
            for entropy, top_gap, end_margin in (
                statistics[event.index, :3].tolist() for event in generation.events
            )
        ]
        thinking = np.arange(count) < generation.thinking_tokens
        generation.tokens = Tokens(np.array(generation.output_ids, np.int32), thinking, statistics)
        return generation


@dataclass
class ScriptedSource:
    """What a loaded model offers."""

    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    tokenizer: CharacterTokenizer = field(default_factory=CharacterTokenizer)
    fingerprint: Fingerprint = field(
        default_factory=lambda: Fingerprint(config="c", weights="w", tokenizer="t", template="p")
    )
    dtype: str = "float32"

    cues = CueSet(("wait", "hmm"))
    delimiters = Delimiters(("<think>",), ("</think>",))
    exit_text = EXIT
    cut = "after"

    @property
    def setup(self):
        return self

    def close(self):
        pass


@dataclass
class Mortal(ScriptedEngine):
    """Its process is killed at one request, unless the file `killed` says that it was already."""

    at: str = ""
    killed: str = ""

    def _think(self, request, sampling):
        if request.id == self.at and not Path(self.killed).exists():
            Path(self.killed).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._think(request, sampling)


def scripted(kind="ScriptedEngine", **options):
    """A function that loads a scripted engine; the recording says it was a `ScriptedEngine`."""
    return partial(_load, kind, options)


def _load(kind, options):
    engine = {"ScriptedEngine": ScriptedEngine, "Mortal": Mortal}[kind](**options)
    return ScriptedSource(type("ScriptedEngine", (type(engine),), {})(**options))


def problems(count: int) -> list[Problem]:
    return [
        Problem(f"p{i}", f"prompt {i}", str(i % 3), {"family": "sum", "difficulty": i % 4, "source": "x"})
        for i in range(count)
    ]


SAMPLING = Sampling(temperature=1.0, max_tokens=600, answer_tokens=8, seed=5)


def _draw(*key) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big")
