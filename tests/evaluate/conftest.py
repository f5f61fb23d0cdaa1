"""A recorded data set made without a model."""

import pytest

from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from tests.support.scripted import SAMPLING, ScriptedSource, problems


@pytest.fixture(scope="session")
def scripted(tmp_path_factory):
    """160 problems, each with two traces."""
    out = tmp_path_factory.mktemp("scripted") / "data"
    return collect(ScriptedSource(), problems(160), out, SAMPLING, CollectOptions(samples=2))
