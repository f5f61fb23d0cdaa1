"""Collecting through a server over HTTP: traces are done one by one, and keep what an interruption left."""

from contextlib import closing
from typing import Any, cast

import pytest

from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.collect.sources import SourceOptions, load_source
from lynxstop.core.types import Sampling
from lynxstop.recordings.problems import Problem
from lynxstop.testing.server import MockServer
from tests.support.servers import serving

SYSTEM = {"role": "system", "content": "Be brief."}
PROBLEMS = [
    Problem(f"p{i}", (SYSTEM, {"role": "user", "content": f"7 + {i} * 2"}), str(7 + 2 * i)) for i in range(6)
]
SAMPLING = Sampling(max_tokens=600, answer_tokens=32)
OPTIONS = CollectOptions(keep_every=0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupted_collection_asks_for_missing_traces_only(tmp_path):
    server = MockServer()
    with serving(server) as address:

        def run(out, interrupt=0):
            options = SourceOptions(batch_size=2, arguments={"base_url": address})
            with closing(load_source("openai", "mock", Recipe(), options)) as source:
                force, calls = source.engine.force_exits, []

                def counted(*arguments):
                    calls.append(arguments)
                    if len(calls) == interrupt:
                        raise KeyboardInterrupt
                    return force(*arguments)

                source.engine.force_exits = counted  # type: ignore[method-assign]
                return collect(source, PROBLEMS, tmp_path / out, SAMPLING, OPTIONS), calls

        calm, calls = run("calm")
        # given a collection that was interrupted when three traces were done
        assert len(calls) == len(PROBLEMS)
        with pytest.raises(KeyboardInterrupt):
            run("again", interrupt=4)
        # when it goes on, then the exits of the other three are forced, and the data are the same
        data, calls = run("again")
        assert len(calls) == 3
        assert data.traces() == calm.traces()
        assert str(data.cues().to_pylist()) == str(calm.cues().to_pylist())
        assert all(data.traces()["full_right"].to_pylist())
    # and the server got the system text
    asked = [r.body["messages"] for r in server.records if r.body.get("messages", [None])[0] == SYSTEM]
    assert {messages[1]["content"] for messages in asked} == {
        cast(Any, p.prompt)[1]["content"] for p in PROBLEMS
    }
