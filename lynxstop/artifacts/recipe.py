"""A recipe: how one model is watched, stopped and sampled, as a small TOML file."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from lynxstop.artifacts.strict import Strict, first_of
from lynxstop.core.cues import CueSet, cue_set
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.core.policy import ExitSide, StopPolicy
from lynxstop.errors import ConfigError

logger = logging.getLogger(__name__)


def _once_behind(cut: Any) -> Any:
    """Accept the word of older recipes, with a note."""
    if cut != "behind":
        return cut
    logger.warning('This recipe says cut = "behind"; write cut = "after".')
    return "after"


class Thinking(Strict):
    """Delimiters of a thinking block; empty lists are detected from the tokenizer.

    `special` says whether they are special tokens, each of them one token: then a tokenizer that spells them
    out of pieces is not this model's and is refused. Left out, that holds for parts written ``<|...|>``.
    """

    open: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    special: bool | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Thinking:
        if bool(self.open) != bool(self.close):
            raise ValueError("open and close belong together: name both, or neither to have them detected")
        return self


class Cues(Strict):
    """Words that open a new thought, whether any paragraph break counts as one, and a named set to add.

    With `set` alone, such as ``set = "en+zh"``, there are no other words.
    """

    words: tuple[str, ...] = ("wait", "hmm", "alternatively")
    paragraph: bool = False
    set: str = ""

    @model_validator(mode="before")
    @classmethod
    def _only_the_set(cls, given: Any) -> Any:
        return {"words": (), **given} if isinstance(given, dict) and given.get("set") else given

    @property
    def cue_set(self) -> CueSet:
        """All of them together.

        Raises
        ------
        ConfigError
            When there is no such set, or nothing to look for.
        """
        if not self.set:
            return CueSet(self.words, self.paragraph)
        own = CueSet(self.words, self.paragraph) if self.words or self.paragraph else None
        return cue_set(self.set) | own if own else cue_set(self.set)


class ForcedExit(Strict):
    """Text forced at an exit, where `{close}` stands for the closing delimiter, and where it cuts.

    None is what the engine does by itself: "before" the cue's word in front of servers, which can be asked
    again, and "after" the cue where generated tokens stay.
    """

    text: str = "\n{close}\n\nThe final answer is \\boxed{"
    cut: Annotated[ExitSide, BeforeValidator(_once_behind)] | None = None


class ProbeOptions(Strict):
    """Layers to record (indices as in `output_hidden_states`, negative from the end; none for data without
    hidden states), and the probe's kind.
    """

    layers: tuple[int, ...] = (-1,)
    kind: str = Field(default="logistic", pattern="^(logistic|mlp)$")


class SamplingOptions(Strict):
    """Sampling parameters as served."""

    temperature: float = Field(default=0.6, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=32768, ge=1)
    answer_tokens: int = Field(default=128, ge=1)


class Guards(Strict):
    """Limits on when a stop may happen; see `lynxstop.core.policy.StopPolicy`."""

    min_tokens: int = Field(default=0, ge=0)
    cooldown: int = Field(default=0, ge=0)
    stride: int = Field(default=1, ge=1)
    max_points: int | None = Field(default=None, ge=1)
    budget: int | None = Field(default=None, ge=1)


class PointOptions(Strict):
    """Decision points to record beside cues: ends of sentences, clauses and lines; every so many tokens."""

    boundaries: bool = False
    every: int = Field(default=0, ge=0)


class RecipeSource(Strict):
    """Where the settings come from, and for which models; for people, nothing is computed from it."""

    models: tuple[str, ...] = ()
    """Names on the Hugging Face hub."""
    depth: int | None = Field(default=None, ge=1)
    """Decoder layers."""
    reference: str = ""
    note: str = ""
    checked: bool = False
    """Whether cues, delimiters and exit text were compiled with this model's own tokenizer files."""


class Recipe(Strict):
    """All sections; every one has defaults."""

    source: RecipeSource = RecipeSource()
    thinking: Thinking = Thinking()
    cues: Cues = Cues()
    exit: ForcedExit = ForcedExit()
    probe: ProbeOptions = ProbeOptions()
    sampling: SamplingOptions = SamplingOptions()
    guards: Guards = Guards()
    points: PointOptions = PointOptions()

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe.

        Raises
        ------
        ConfigError
            When the file is missing, not TOML, or holds an unknown or wrong key.
        """
        try:
            content = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigError(f"The recipe {path} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"The recipe {path} is not TOML: {error}.") from error
        return cls.read(content, f"The recipe {path}")

    @classmethod
    def read(cls, content: Mapping[str, Any], what: str = "The recipe") -> Recipe:
        """Check the content of a recipe; `what` names it in errors.

        Raises
        ------
        ConfigError
            On an unknown or wrong key.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ConfigError(f"{what} has a wrong value at {first_of(error)}.") from error

    def policy(self, exit_ids: tuple[int, ...]) -> StopPolicy:
        """Return where these settings allow an exit, forced with these token ids."""
        return StopPolicy(
            exit_ids=exit_ids,
            **self.guards.model_dump(),
            points=CUE | BOUNDARY * self.points.boundaries | INTERVAL * (self.points.every > 0),
            every=self.points.every,
        )
