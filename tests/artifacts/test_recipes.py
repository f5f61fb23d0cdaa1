"""The shipped recipes: found by name, and sound for a tokenizer with their models' special tokens."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.recipes import find_recipe, shipped_recipes
from lynxstop.artifacts.setup import setup_from_recipe
from lynxstop.cli import app
from lynxstop.core.session import Session
from lynxstop.errors import ConfigError, TokenizerError
from tests.support.byte_vocabulary import byte_tokenizer

SPECIAL = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"]
FAMILIES = ("r1-distill-qwen", "r1-distill-llama", "qwen3", "qwq", "nemotron", "gpt-oss", "glm", "phi-4")


@pytest.fixture(scope="module")
def with_marks() -> Any:
    """A tokenizer where the delimiters are tokens of their own."""
    return byte_tokenizer(["<think>", "</think>", *SPECIAL])


@pytest.fixture(scope="module")
def spelled() -> Any:
    """A tokenizer that spells `<think>` in ordinary tokens, as Llama's does."""
    return byte_tokenizer(SPECIAL)


@pytest.fixture(scope="module")
def bare() -> Any:
    """A tokenizer without special tokens of these families."""
    return byte_tokenizer(["<|begin_of_text|>"])


def test_all_named_families_are_there() -> None:
    names = list(shipped_recipes())
    assert all(any(name.startswith(family) for name in names) for family in FAMILIES)
    assert len(names) >= 15


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_recipe_is_complete(name: str) -> None:
    path = shipped_recipes()[name]
    recipe = Recipe.load(path)
    assert set(tomllib.loads(path.read_text())) >= {"source", "thinking", "cues", "exit", "probe", "sampling"}
    assert path.read_text().startswith("# Layers")
    assert recipe.source.reference.startswith("https://")
    assert recipe.source.note
    # tests/artifacts/test_real_tokenizers.py compiles these with the files of their models
    assert recipe.source.checked == name.startswith(("qwen3-", "gpt-oss-"))
    assert recipe.source.depth is not None
    *inner, last = recipe.probe.layers
    assert last == -1
    assert inner == sorted(set(inner))
    assert 0 < inner[0] <= inner[-1] < recipe.source.depth


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_cues_are_found_and_an_exit_closes_the_block(name: str, with_marks: Any, spelled: Any) -> None:
    recipe = Recipe.load(shipped_recipes()[name])
    used = with_marks if recipe.thinking.special else spelled

    setup = setup_from_recipe(recipe, used)

    # `setup_from_recipe` has checked that the exit leaves the block; the cues of a thought are seen
    session = Session(setup.watch, setup.policy, used.encode(recipe.thinking.open[0]))
    for token in used.encode(" So 4.\nWait, hmm. Alternatively the waiter", add_special_tokens=False):
        session.read(token)
        session.decide()
    assert session.thinking_tokens > 0
    assert len(session.events) == 3


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_tokenizer_that_spells_the_special_tokens_is_refused(name: str, bare: Any) -> None:
    # given a tokenizer that spells `<think>`, `<|channel|>` and all others out of pieces, as Llama's does
    recipe = Recipe.load(shipped_recipes()[name])
    if recipe.thinking.special is False:
        assert setup_from_recipe(recipe, bare).exit_text
        return

    with pytest.raises(TokenizerError, match="not tokens of this tokenizer") as caught:
        setup_from_recipe(recipe, bare)

    assert recipe.thinking.open[0][:7] in caught.value.message
    assert "special = false" in str(caught.value.hint)


def test_bars_name_special_tokens_unless_the_recipe_says_otherwise(bare: Any) -> None:
    marks = {"open": ["<|open|>think"], "close": ["<|close|>think"]}
    with pytest.raises(TokenizerError, match=r"<\|open\|>, <\|close\|> are not tokens"):
        setup_from_recipe(Recipe.read({"thinking": marks}), bare)
    assert setup_from_recipe(Recipe.read({"thinking": marks | {"special": False}}), bare)
    exit = {"thinking": {"open": ["<t>"], "close": ["</t>"]}, "exit": {"text": "{close}<|final|>"}}
    with pytest.raises(TokenizerError, match=r"<\|final\|> are not tokens"):
        setup_from_recipe(Recipe.read(exit), bare)


def test_recipes_are_found_by_name_model_and_file(tmp_path: Path) -> None:
    assert find_recipe("qwen3-8b").source.models == ("Qwen/Qwen3-8B",)
    assert find_recipe("Qwen/Qwen3-8B") == find_recipe("qwen3-8b") == find_recipe("Qwen3-8B")
    file = tmp_path / "own.toml"
    file.write_text('[cues]\nwords = ["but"]\n')
    assert find_recipe(file).cues.words == ("but",)
    with pytest.raises(ConfigError, match="no recipe 'qwen9'"):
        find_recipe("qwen9")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_recipe(tmp_path / "none.toml")


def test_the_command_lists_and_prints_them(tmp_path: Path) -> None:
    listed = json.loads(CliRunner().invoke(app, ["recipes", "--json"]).stdout)
    assert set(listed["recipes"]) == set(shipped_recipes())
    printed = CliRunner().invoke(app, ["recipes", "openai/gpt-oss-20b"]).stdout
    (tmp_path / "recipe.toml").write_text(printed)
    assert Recipe.load(tmp_path / "recipe.toml") == find_recipe("gpt-oss-20b")
    shown = CliRunner().invoke(app, ["recipes"]).stderr
    assert re.search(r"phi-4-reasoning .*0\.8 / 0\.95 / 50", shown)
