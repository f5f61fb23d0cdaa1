"""A recipe tried out on three prompts: does the model think, show cues, and answer when it is stopped?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.texts import Texts
from lynxstop.core.types import Request, Sampling
from lynxstop.grading.grading import grade

PROMPTS = (
    "What is 17 + 25? Think step by step, then give the final answer.",
    "A train travels 60 km in 45 minutes. What is its speed in km/h?",
    "How many prime numbers are there between 10 and 30?",
)


@dataclass(frozen=True, slots=True)
class Tried:
    """What the model did with one prompt."""

    thinking_tokens: int
    closed: bool
    """Whether it ended its thinking by itself."""
    cues: int
    exits_answered: int | None
    """Of the exits forced at the first and the last cue; None without a cue."""


@dataclass(frozen=True, slots=True)
class RecipeCheck:
    """All prompts, and what to make of them."""

    tried: tuple[Tried, ...]

    @property
    def problems(self) -> list[str]:
        """What speaks against the recipe, in plain words."""
        found = []
        if not all(one.thinking_tokens for one in self.tried):
            silent = sum(not one.thinking_tokens for one in self.tried)
            found.append(
                f"{silent} of {len(self.tried)} prompts opened no thinking block: look at [thinking], "
                "or ask for thinking in the prompt."
            )
        if any(one.thinking_tokens for one in self.tried) and not any(one.cues for one in self.tried):
            found.append("No cue occurred: look at [cues], or let the check think longer.")
        if any(one.exits_answered == 0 for one in self.tried):
            found.append("After a forced exit no answer could be read: look at [exit] text.")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"prompts": [asdict(one) for one in self.tried], "problems": self.problems}


def check_recipe(model: Path, recipe: Recipe, *, most: int = 512, device: str | None = None) -> RecipeCheck:
    """Generate for three prompts, and force an exit at the first and at the last cue of each.

    Parameters
    ----------
    model : Path
        Folder with weights.
    recipe : Recipe
    most : int
        Tokens per prompt, at most.

    Raises
    ------
    ModelError
        When the model cannot be loaded, or has no chat template.
    """
    from lynxstop.engines.transformers.loading import load_engine

    loaded = load_engine(model, recipe, device=device)
    texts = Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues)
    given = Sampling(**recipe.sampling.model_dump())
    sampling = replace(given, max_tokens=min(most, given.max_tokens))
    requests = [Request(str(i), texts.prompt_ids(prompt)) for i, prompt in enumerate(PROMPTS)]
    generations = sorted(
        loaded.engine.generate(requests, sampling, record=True), key=lambda made: made.request.id
    )
    ends = [
        sorted({event.seen_at for event in (*made.events[:1], *made.events[-1:])}) for made in generations
    ]
    forced = loaded.engine.force_exits(generations, sampling, ends)
    tried = []
    for made, answers in zip(generations, forced, strict=True):
        after = [texts.decode([*loaded.engine.policy.exit_ids, *answer.ids]) for answer in answers]
        read = sum(bool(grade(texts.after_thinking(text), None).answer) for text in after)
        ended = any(close in texts.decode(made.output_ids) for close in loaded.setup.delimiters.close)
        closed = ended and made.exit is None
        tried.append(Tried(made.thinking_tokens, closed, len(made.events), read if answers else None))
    return RecipeCheck(tuple(tried))
