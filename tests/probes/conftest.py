"""A small real recording, and the made data of this folder."""

import pytest

from lynxstop import shipped
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.recording import record
from lynxstop.recordings.problems import load_problems
from lynxstop.recordings.storage import Recording


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Traces of the shipped model on 90 problems."""
    out = tmp_path_factory.mktemp("recorded") / "data"
    problems = load_problems(shipped.PROBLEMS / "train.jsonl")[:90]
    record(shipped.MODEL, problems, out, Recipe.load(shipped.BUNDLE / "recipe.toml"))
    return Recording.open(out)
