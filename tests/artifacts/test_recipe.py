"""Recipes are read strictly."""

from pathlib import Path

import pytest

from lynxstop.artifacts.recipe import Recipe
from lynxstop.core.cues import CueSet, cue_set
from lynxstop.errors import ConfigError


def test_sections_override_defaults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[cues]\nwords = ["but"]\n[guards]\nbudget = 9\n')

    recipe = Recipe.load(path)

    assert recipe.cues.words == ("but",)
    assert recipe.guards.budget == 9
    assert recipe.sampling == Recipe().sampling


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cues]\nword = []", "cues.word"),
        ("[sampling]\ntemperature = -1", "sampling.temperature"),
        ("[cues", "is not TOML"),
        ("[probe]\nkind = 'forest'", "probe.kind"),
        ("[thinking]\nopen = ['<own>']", "name both"),
        ("[thinking]\nclose = ['</own>']", "name both"),
    ],
)
def test_a_wrong_recipe_is_refused_by_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=message):
        Recipe.load(path)


def test_a_missing_recipe_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Recipe.load(tmp_path / "none.toml")


def test_a_named_cue_set_stands_alone_or_beside_words(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[cues]\nset = "lynx+zh"\n')
    assert Recipe.load(path).cues.cue_set == cue_set("lynx+zh")

    path.write_text('[cues]\nset = "zh"\nwords = ["but"]\nparagraph = true\n')
    loaded = Recipe.load(path)
    assert loaded.cues.cue_set == cue_set("zh+paragraph") | CueSet(("but",))
    assert Recipe.model_validate(loaded.model_dump()) == loaded

    path.write_text('[cues]\nset = "tlh"\n')
    with pytest.raises(ConfigError, match="'tlh'"):
        _ = Recipe.load(path).cues.cue_set


def test_the_older_word_for_a_cut_is_taken_with_a_note(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = Recipe.model_validate({"exit": {"cut": "behind"}})

    assert recipe.exit.cut == "after"
    assert 'write cut = "after"' in caplog.text
