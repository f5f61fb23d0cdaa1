"""Tokenizers of Mistral's models, which transformers loads with mistral-common where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from lynxstop.artifacts.tokenizer import load_tokenizer
from lynxstop.core.surface import INERT, token_surfaces
from lynxstop.errors import TokenizerError
from lynxstop.workflows.draft_recipe import draft_recipe
from tests.support.tekken import write_tekken

pytest.importorskip("mistral_common")
pytestmark = pytest.mark.filterwarnings("ignore")
TEXT = "[THINK]Wait, hmm: naïve 等等.[/THINK]"


def test_mistral_tokens_write_what_they_read(tmp_path: Path) -> None:
    # given a folder with mistral-common's file alone
    tokenizer = load_tokenizer(write_tekken(tmp_path / "model"))
    surfaces = token_surfaces(tokenizer)
    # when a text is read, then its special tokens are one token each, and the others write it
    first, *ids, last = tokenizer.encode(TEXT, add_special_tokens=False)
    assert surfaces[first] == (surfaces.private["[THINK]"],)
    assert surfaces[last] == (surfaces.private["[/THINK]"],)
    symbols = [symbol for token in ids for symbol in surfaces[token]]
    assert bytes(symbol for symbol in symbols if symbol < INERT).decode() == "Wait, hmm: naïve 等等."


def test_a_recipe_is_drafted_for_a_mistral_model(tmp_path: Path) -> None:
    recipe = draft_recipe(write_tekken(tmp_path / "model")).recipe
    assert (recipe.thinking.open, recipe.thinking.close) == (("[THINK]",), ("[/THINK]",))
    assert recipe.thinking.special is True


def test_mistral_common_itself_is_refused_with_a_remedy(tmp_path: Path) -> None:
    # given a tokenizer that somebody loaded as transformers prefers
    tokenizer = transformers.AutoTokenizer.from_pretrained(write_tekken(tmp_path / "model"))
    if type(tokenizer).__name__ != "MistralCommonBackend":
        pytest.skip("this version of transformers does not prefer mistral-common")
    # when its tokens are to be read, then it is refused
    with pytest.raises(TokenizerError, match="mistral_format=False"):
        token_surfaces(tokenizer)
