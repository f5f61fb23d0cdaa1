"""From a recipe or a bundle and a tokenizer to what an engine needs: the watch, the policy, the layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.core.cues import CueSet
from lynxstop.core.policy import ExitSide, StopPolicy
from lynxstop.core.surface import added_tokens
from lynxstop.core.thinking import Delimiters, bar_marks, detect_delimiters, marks_of
from lynxstop.core.watch import Watch, check_exit, compile_watch
from lynxstop.errors import ConfigError, FingerprintError, TokenizerError


@dataclass(frozen=True, slots=True)
class WatchedSetup:
    """What is watched, the text that an exit forces, and where it cuts."""

    cues: CueSet
    delimiters: Delimiters
    exit_text: str
    cut: ExitSide


@dataclass(frozen=True, slots=True)
class Setup(WatchedSetup):
    """The same, compiled for one tokenizer."""

    watch: Watch
    policy: StopPolicy

    def require_cut_after(self) -> None:
        """Refuse to cut before the cue where generated tokens cannot be taken back.

        Raises
        ------
        ConfigError
        """
        if self.cut != "after":
            raise ConfigError(
                f"This engine cannot cut {self.cut} the cue: what it has generated stays.",
                hint='Set cut = "after" in the recipe\'s [exit] section, or use the engine that it is for.',
            )


def setup_from_recipe(recipe: Recipe, tokenizer: Any) -> Setup:
    """Compile a recipe.

    Raises
    ------
    TokenizerError
        When a cue, a delimiter or the exit text cannot be expressed in the tokenizer's tokens, a special
        token of the recipe is none in this tokenizer, or the exit text holds one that ends a text.
    ModelError
        When the recipe names no delimiters and the tokenizer shows no thinking block.
    """
    if recipe.thinking.open and recipe.thinking.close:
        delimiters = Delimiters(open=recipe.thinking.open, close=recipe.thinking.close)
    else:
        delimiters = detect_delimiters(tokenizer)
    exit_text = recipe.exit.text.replace("{close}", delimiters.close[0])
    _check_special(recipe.thinking.special, delimiters, exit_text, tokenizer)
    exit_ids = tuple(tokenizer.encode(exit_text, add_special_tokens=False))
    if not exit_ids:
        raise TokenizerError("The exit text has no tokens.", hint="Set [exit] text in the recipe.")
    policy = recipe.policy(exit_ids)
    return _compiled(
        recipe.cues.cue_set, delimiters, exit_text, policy, recipe.exit.cut or "after", tokenizer
    )


def _check_special(special: bool | None, delimiters: Delimiters, exit_text: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that would spell out of pieces what is one special token for the recipe's model."""
    if special is False:
        return
    texts = [*delimiters.open, *delimiters.close] if special else []
    wanted = [mark for text in texts for mark in marks_of(text)]
    wanted += [mark for text in (*delimiters.open, *delimiters.close, exit_text) for mark in bar_marks(text)]
    single = set(added_tokens(tokenizer).values()) | set(_vocabulary(tokenizer))
    if spelled := [mark for mark in dict.fromkeys(wanted) if mark not in single]:
        raise TokenizerError(
            f"The recipe's special tokens {', '.join(spelled)} are not tokens of this tokenizer, which "
            "spells them out of pieces: the recipe is for another model.",
            hint="Use this model's own recipe; if it really writes its delimiters in ordinary tokens, say "
            "`special = false` in the recipe's [thinking].",
        )


def _vocabulary(tokenizer: Any) -> Iterable[str]:
    return tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else ()


def with_budget(policy: StopPolicy, recipe: Recipe) -> StopPolicy:
    """Return the policy of full traces: with a budget that leaves room for an answer.

    Raises
    ------
    ConfigError
        When `max_tokens` leaves no room for thinking.
    """
    if policy.budget is not None:
        return policy
    sampling = recipe.sampling
    room = len(policy.exit_ids) + sampling.answer_tokens + 1
    if sampling.max_tokens <= room:
        raise ConfigError(f"max_tokens {sampling.max_tokens} leaves no room for thinking.")
    return replace(policy, budget=sampling.max_tokens - room)


def setup_from_bundle(bundle: Bundle, tokenizer: Any) -> Setup:
    """Compile a bundle's policy.

    Raises
    ------
    FingerprintError
        When the bundle's exit text has other tokens in this tokenizer.
    """
    policy = bundle.policy
    found = tuple(tokenizer.encode(policy.exit_text, add_special_tokens=False))
    if found != policy.exit_ids:
        raise FingerprintError(
            "The bundle's exit text has other token ids in this tokenizer.",
            hint="Serve the model that the bundle was made for.",
        )
    served = policy.stop_policy()
    return _compiled(policy.cues, policy.delimiters, policy.exit_text, served, policy.cut, tokenizer)


def _compiled(
    cues: CueSet, delimiters: Delimiters, exit_text: str, policy: StopPolicy, cut: ExitSide, tokenizer: Any
) -> Setup:
    watch = compile_watch(tokenizer, cues, delimiters)
    check_exit(watch, policy.exit_ids, (getattr(tokenizer, "eos_token_id", None),))
    return Setup(cues, delimiters, exit_text, cut, watch, policy)
