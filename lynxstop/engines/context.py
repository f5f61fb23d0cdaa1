"""What does not fit in a model's context: refused in the same way by every engine that knows its context."""

from __future__ import annotations

from collections.abc import Iterable

from lynxstop.artifacts.recipe import Recipe
from lynxstop.core.policy import StopPolicy
from lynxstop.core.types import Request
from lynxstop.errors import ConfigError, DataError


def check_prompts(requests: Iterable[Request], context: float, remedy: str) -> None:
    """Refuse prompts that leave no room for an output.

    Raises
    ------
    DataError
        Names the first of them; `remedy` is what to do about it.
    """
    for request in requests:
        if (length := len(request.prompt_ids)) >= context:
            raise DataError(
                f"The prompt of {request.id!r} has {length:,} tokens, and the context has {context:,}.",
                hint=remedy,
            )


def check_recipe(policy: StopPolicy, recipe: Recipe, context: float, remedy: str = "") -> None:
    """Refuse a context that would cut traces before the budget ends them: they would have no answer.

    Raises
    ------
    ConfigError
        `remedy` is what to do besides changing the recipe.
    """
    longest = (policy.budget or 0) + len(policy.exit_ids) + recipe.sampling.answer_tokens
    if longest >= context:
        raise ConfigError(
            f"The recipe lets a trace have {longest:,} tokens, and the context has {context:,}, the prompt "
            "included.",
            hint=f"{remedy}Lower max_tokens in the recipe's [sampling], or budget in its [guards]; "
            "`lynxstop recipe MODEL` writes a recipe that fits.",
        )
