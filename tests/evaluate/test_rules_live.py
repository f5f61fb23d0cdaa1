"""A rule decides live what it decides in replay: same point, same score, in the engine and in `generate`."""

from typing import Any

import pytest
import torch

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.texts import Texts
from lynxstop.core.points import BOUNDARY, CUE
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.types import Request, Sampling
from lynxstop.engines.transformers import EarlyExitProcessor, TransformersEngine
from lynxstop.engines.transformers.loading import LoadedModel, load_engine
from lynxstop.errors import ConfigError
from lynxstop.recordings.storage import Recording
from lynxstop.rules.served import serve
from lynxstop.rules.table import rule_named
from tests.support.ruled import CASES, TOKENS, prepared, prompts, record_greedy


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(shipped.BUNDLE)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record_greedy(tmp_path_factory.mktemp("live") / "data")


@pytest.fixture(scope="module")
def loaded(bundle: Bundle) -> LoadedModel:
    return load_engine(shipped.MODEL, bundle, batch_size=5)


@pytest.fixture(scope="module")
def asked(loaded: LoadedModel) -> list[tuple[int, ...]]:
    return prompts(Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues))


@pytest.mark.parametrize(("name", "points"), CASES)
def test_the_engine_decides_as_replayed(
    recorded: Recording,
    loaded: LoadedModel,
    bundle: Bundle,
    asked: list[tuple[int, ...]],
    name: str,
    points: int,
) -> None:
    # given what a rule would have decided on recorded traces
    policy, table, expected = prepared(recorded, bundle, name, points)
    probe = bundle.probe if policy.needs_probe else None
    engine = TransformersEngine(
        loaded.engine.model, loaded.tokenizer, loaded.setup.watch, policy, probe=probe, batch_size=5
    )
    # when it is served
    ids_of = table.trace_ids.tolist()
    requests = [Request(trace, ids, risk=0.05) for trace, ids in zip(ids_of, asked, strict=True)]
    live = {g.request.id: g for g in engine.generate(requests, Sampling(max_tokens=TOKENS, answer_tokens=4))}
    # then every request exits at the same point with the same score
    exits = 0
    for trace, decided in zip(ids_of, expected, strict=True):
        stop = live[trace].exit
        if decided is None:
            assert stop is None or stop.reason == "budget"
            continue
        assert stop is not None
        assert (stop.reason, stop.thinking_tokens) == ("score", decided.thinking_tokens)
        assert stop.score == pytest.approx(decided.score, abs=5e-3)
        exits += 1
    assert exits > 0


@pytest.mark.parametrize("name", ["combined", "logprob-probe"])
def test_generate_decides_as_replayed(
    recorded: Recording, loaded: LoadedModel, bundle: Bundle, asked: list[tuple[int, ...]], name: str
) -> None:
    policy, _, expected = prepared(recorded, bundle, name, CUE | BOUNDARY)
    probe = bundle.probe if policy.needs_probe else None
    model: Any = loaded.engine.model
    for decided, ids in list(zip(expected, asked, strict=True))[:3]:
        with EarlyExitProcessor(model, loaded.setup.watch, policy, probe=probe, risk=0.05) as stopper:
            model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                logits_processor=[stopper],
                max_new_tokens=TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                pad_token_id=0,
            )
            (stop,) = stopper.exits
        if decided is None:
            assert stop is None or stop.reason == "budget"
        else:
            assert stop is not None
            assert stop.thinking_tokens == decided.thinking_tokens


def test_without_hidden_states_only_rules_that_read_none_are_served(
    loaded: LoadedModel, bundle: Bundle
) -> None:
    policy = StopPolicy(bundle.policy.exit_ids, (Level(0.05, 0.0),), rule=serve(rule_named("combined")))
    engine = TransformersEngine(loaded.engine.model, loaded.tokenizer, loaded.setup.watch, policy)
    with pytest.raises(ConfigError, match="needs a probe"):
        engine.generate([Request("a", (1,), risk=0.05)], Sampling())
    with pytest.raises(ConfigError, match="needs a probe"):
        EarlyExitProcessor(loaded.engine.model, loaded.setup.watch, policy, risk=0.05)


def test_an_engine_that_keeps_its_tokens_refuses_to_cut_before_the_cue() -> None:
    recipe = Recipe.model_validate({"exit": {"cut": "before"}})
    with pytest.raises(ConfigError, match="cannot cut before"):
        load_engine(shipped.MODEL, recipe)


def test_rules_that_need_trial_answers_are_not_served() -> None:
    with pytest.raises(ConfigError, match="trial"):
        serve(rule_named("cascade"))
