"""Turns facts, traces and forced exits into weighted token documents and batches."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lynxstop.demo.problems import (
    FAMILIES,
    LABELS,
    MODULUS,
    Family,
    GeneratedProblem,
    calculate,
    stream,
)
from lynxstop_research.reasoner.tokenizer import BEGIN, END, THINK
from lynxstop_research.reasoner.traces import CLOSE, CUES, EXIT, TraceWriter

VERDICTS = (" ok.", " fails.", " yes.", " no.")
VERDICT_WEIGHT = 5.0
PHRASE_WEIGHT = 3.0
EXIT_SHARE = 0.2
FACTS_PER_ROW = 24

# Share of each difficulty among the training problems; 6 is the level of the shift set.
_LEVELS = {2: 0.23, 3: 0.25, 4: 0.23, 5: 0.23, 6: 0.06}


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids and, for each, the weight of its loss; zero for the given text."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Batch:
    """A right-padded batch; `ids` and `weights` have shape ``(documents, tokens)``."""

    ids: Tensor
    weights: Tensor


class Documents:
    """Makes documents from one random stream."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.rng = random.Random(f"documents/{seed}")
        self._encoder = tokenizer.backend_tokenizer
        self._pad = int(tokenizer.pad_token_id)
        self._verdicts = {self.encode(word)[0] for word in VERDICTS}
        self._cues = {self.encode(cue)[-1] for cue in CUES}
        self._equals = self.encode(" =")[0]
        self.writer = TraceWriter(self.rng)
        self._streams = {
            (family, level): stream(self.rng, "reasoner", family, level)
            for family in FAMILIES
            for level in _LEVELS
        }

    def facts(self) -> Document:
        """Return a row of unrelated labelled steps and verdicts, with loss on what follows ``=``."""
        ids = self.encode("".join(self._fact() for _ in range(FACTS_PER_ROW)))
        results = [index > 0 and ids[index - 1] == self._equals for index in range(len(ids))]
        weights = [
            VERDICT_WEIGHT if i in self._verdicts else float(r) for i, r in zip(ids, results, strict=True)
        ]
        return Document(ids, weights)

    def trace(self) -> Document:
        """Return a whole trace, or one that is cut at a random cue and forced to answer."""
        trace = self.writer.write(self.problem())
        prompt = self.encode(prompt_text(trace.problem.prompt))
        forced = self.rng.random() < EXIT_SHARE
        if forced:
            cue = self.rng.randrange(len(trace.cues))
            # A stop is served one token after the cue, where the cue is known to be a whole word.
            cut = len(self.encode(trace.until(cue))) + self.rng.choice((0, 1, 1))
            thinking = self.encode(trace.until(cue) + trace.phrases[cue])[:cut]
            answer = trace.paragraphs[cue].answer
        else:
            thinking = self.encode(trace.thinking())
            answer = trace.paragraphs[-1].answer
        leave = self.encode(EXIT)
        close = self.encode(answer + CLOSE + END)
        ids = prompt + thinking + leave + close
        weights = [0.0] * len(prompt) + [1.0] * len(thinking)
        weights += [0.0 if forced else 1.0] * len(leave) + [1.0] * len(close)
        return Document(ids, self._stress(ids, weights))

    def batches(self, kind: str, tokens: int, pool: int = 256) -> Iterator[Batch]:
        """Yield batches of about `tokens` tokens, each of documents of similar length."""
        make = self.facts if kind == "facts" else self.trace
        while True:
            documents = sorted((make() for _ in range(pool)), key=lambda d: len(d.ids))
            groups: list[list[Document]] = [[]]
            for document in documents:
                if groups[-1] and (len(groups[-1]) + 1) * len(document.ids) > tokens:
                    groups.append([])
                groups[-1].append(document)
            self.rng.shuffle(groups)
            yield from map(self._pad_together, groups)

    def _pad_together(self, documents: list[Document]) -> Batch:
        width = max(len(document.ids) for document in documents)
        ids = [d.ids + [self._pad] * (width - len(d.ids)) for d in documents]
        weights = [d.weights + [0.0] * (width - len(d.ids)) for d in documents]
        return Batch(torch.tensor(ids), torch.tensor(weights))

    def _stress(self, ids: list[int], weights: list[float]) -> list[float]:
        stressed = []
        for index, weight in enumerate(weights):
            if ids[index] in self._verdicts:
                weight *= VERDICT_WEIGHT
            elif index and ids[index - 1] in self._cues:
                weight *= PHRASE_WEIGHT
            stressed.append(weight)
        return stressed

    def _fact(self) -> str:
        left, kind = self.rng.randrange(MODULUS), self.rng.random()
        if kind < 0.1:
            right = left if self.rng.random() < 0.5 else self.rng.randrange(MODULUS)
            opener, words = self.rng.choice((("gives", VERDICTS[:2]), ("so", VERDICTS[2:])))
            verdict = words[0] if left == right else words[1]
            return f" {opener} {left} - {right} = {(left - right) % MODULUS}{verdict}"
        operator = self.rng.choice("+-*/")
        right = self.rng.randint(1 if operator in "+-" else 2, MODULUS - 1)
        result = calculate(left, operator, right)
        return f" {self.rng.choice(LABELS)}. {left} {operator} {right} = {result}"

    def problem(self) -> GeneratedProblem:
        """Draw a problem of the training split."""
        family: Family = self.rng.choice(FAMILIES)
        level = self.rng.choices(tuple(_LEVELS), tuple(_LEVELS.values()))[0]
        return next(self._streams[family, level])

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self._encoder.encode(text).ids
        return ids


def prompt_text(prompt: str) -> str:
    """Return the user's turn and the opened thinking, as the chat template writes them."""
    return f"{BEGIN}user\n{prompt}{END}\n{BEGIN}assistant\n{THINK}\n"
