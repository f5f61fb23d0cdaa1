"""Recipes are read strictly."""

from pathlib import Path

import pytest

from lynxstop.artifacts.recipe import Recipe
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
