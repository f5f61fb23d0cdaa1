"""A recorded data set made without a model."""

import pytest

from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from tests.support.scripted import SAMPLING, ScriptedSource, problems


@pytest.fixture
def recorded(tmp_path):
    """Ten traces in shards of four."""
    return collect(ScriptedSource(), problems(10), tmp_path / "data", SAMPLING, CollectOptions(shard_size=4))
