"""`lynxstop collect`: its options."""

import inspect
from dataclasses import fields

import pytest

from lynxstop.cli.collect import _cluster, collect
from lynxstop.collect.options import CollectOptions
from lynxstop.errors import ConfigError

NOTHING = {"address": None, "actors": None, "gpus_per_actor": None, "cpus_per_actor": None}


def test_options_of_ray_are_read_with_it_and_refused_without() -> None:
    found = _cluster("ray", ray_engine="vllm", **(NOTHING | {"actors": 4, "gpus_per_actor": 0.5}))
    assert found is not None
    assert (found.actors, found.gpus_per_actor, found.cpus_per_actor) == (4, 0.5, 1)
    assert _cluster("vllm", ray_engine=None, **NOTHING) is None
    for options in ({"actors": 2}, {"address": "auto"}, {"gpus_per_actor": 0.0}):
        with pytest.raises(ConfigError, match="--engine ray"):
            _cluster("transformers", ray_engine=None, **(NOTHING | options))
    with pytest.raises(ConfigError, match="--engine ray"):
        _cluster("vllm", ray_engine="vllm", **NOTHING)


def test_the_defaults_of_the_command_are_those_of_the_options() -> None:
    parameters = inspect.signature(collect).parameters
    shared = {field.name: field.default for field in fields(CollectOptions) if field.name in parameters}
    assert len(shared) == 11
    assert {name: parameters[name].default for name in shared} == shared
