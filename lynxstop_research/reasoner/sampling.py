"""Samples whole traces from a trained model and forces an exit at every cue."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from lynxstop.demo.problems import GeneratedProblem
from lynxstop_research.reasoner.documents import prompt_text
from lynxstop_research.reasoner.tokenizer import END, END_THINK
from lynxstop_research.reasoner.traces import CUES, EXIT

_ANSWER_TOKENS = 4
_CUT_OFF = 1500


@dataclass(slots=True)
class CueRecord:
    """What was seen at one cue.

    Attributes
    ----------
    position : int
        Thinking tokens up to and including the cue's last token.
    answer : str or None
        The answer of an exit forced here, or None if it does not parse.
    confidence : float
        Probability of the forced answer's tokens (their geometric mean).
    entropy : float
        Entropy of the next token at the cue, in nats.
    lowest : float
        Lowest log-probability of a token since the last cue, in nats.
    text : str
        The paragraph before the cue.
    margin : float
        Log-probability of the likeliest next token above that of ending the thinking, in nats.
    hidden : array of shape (layers + 1, width)
        Hidden states at the cue's last token, the embedding first.
    """

    position: int
    answer: str | None
    confidence: float
    entropy: float
    lowest: float
    text: str
    margin: float
    hidden: NDArray[np.float32] = field(repr=False)


@dataclass(slots=True)
class Sampled:
    """One sampled trace: its answer, its thinking tokens and its cues in order."""

    problem: GeneratedProblem
    answer: str | None
    tokens: int
    text: str
    cues: list[CueRecord]


class Sampler:
    """Samples from one model at one temperature; greedy after a forced exit."""

    def __init__(
        self, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, temperature: float
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.temperature = temperature
        self._end = self._ids(END)[0]
        self._end_think = self._ids(END_THINK)[0]
        self._cues = [tuple(self._ids(cue)) for cue in CUES]
        self._exit = self._ids(EXIT)

    @torch.no_grad()
    def run(self, problems: Sequence[GeneratedProblem], batch: int = 250) -> list[Sampled]:
        """Sample one trace for each problem."""
        ordered = sorted(problems, key=lambda p: (p.difficulty, len(p.prompt)))
        sampled: list[Sampled] = []
        for first in range(0, len(ordered), batch):
            chosen = ordered[first : first + batch]
            prompts = [self._ids(prompt_text(p.prompt)) for p in chosen]
            for problem, prompt, reply in zip(chosen, prompts, self._generate(prompts), strict=True):
                sampled.append(self._examine(problem, prompt, reply))
        return sampled

    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        ids, mask = self._pad_left(prompts)
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=self.temperature,
            top_k=0,
            max_new_tokens=_CUT_OFF,
        )
        replies = out[:, ids.shape[1] :].tolist()
        return [r[: r.index(self._end) + 1] if self._end in r else r for r in replies]

    def _examine(self, problem: GeneratedProblem, prompt: list[int], reply: list[int]) -> Sampled:
        out = self.model(torch.tensor([prompt + reply]), output_hidden_states=True)
        scores = out.logits[0].log_softmax(-1)
        states = torch.stack(out.hidden_states)[:, 0]
        chosen = scores[len(prompt) - 1 : -1].gather(1, torch.tensor(reply)[:, None])[:, 0]
        thinking = reply.index(self._end_think) if self._end_think in reply else len(reply)
        ends = self._cue_ends(reply[:thinking])
        answers = self._force([prompt + reply[: end + 1] for end in ends])
        cues, before = [], 0
        for end, (answer, confidence) in zip(ends, answers, strict=True):
            place = len(prompt) + end
            row = scores[place]
            cues.append(
                CueRecord(
                    position=end + 1,
                    answer=answer,
                    confidence=confidence,
                    entropy=float(-(row.exp() * row).sum()),
                    lowest=float(chosen[before : end + 1].min()),
                    text=self.tokenizer.decode(reply[before : end + 1]),
                    margin=float(row.max() - row[self._end_think]),
                    hidden=states[:, place].float().numpy(),
                )
            )
            before = end + 1
        text = self.tokenizer.decode(reply)
        return Sampled(problem, parse(text.rpartition("\\boxed{")[2]), thinking, text, cues)

    def _cue_ends(self, ids: list[int]) -> list[int]:
        return [
            place
            for place in range(len(ids))
            if any(
                place + 1 >= len(cue) and tuple(ids[place + 1 - len(cue) : place + 1]) == cue
                for cue in self._cues
            )
        ]

    def _force(self, prefixes: list[list[int]]) -> list[tuple[str | None, float]]:
        if not prefixes:
            return []
        ids, mask = self._pad_left([prefix + self._exit for prefix in prefixes])
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=_ANSWER_TOKENS,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = out.sequences[:, ids.shape[1] :]
        logits = torch.stack(out.logits, 1).log_softmax(-1).max(-1).values
        results = []
        for row, values in zip(new.tolist(), logits, strict=True):
            answer = parse(self.tokenizer.decode(row))
            length = len(self._ids(answer)) if answer else 1
            results.append((answer, float(values[:length].mean().exp())))
        return results

    def _pad_left(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return ids, mask

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def parse(text: str) -> str | None:
    """Return the answer before the closing brace, or None if there is none."""
    answer, brace, _ = text.partition("}")
    known = answer.isdecimal() or (len(answer) == 1 and answer.isupper())
    return answer if brace and known else None
