"""A rule decides live what it decides in replay: same point, same score, in the engine and in `generate`."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.recording import record
from lynxstop.collect.storage import DataSet
from lynxstop.collect.texts import Texts
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.engines.transformers import LynxStopProcessor, TransformersEngine
from lynxstop.engines.transformers.loading import Loaded, load_engine
from lynxstop.engines.types import Request, Sampling
from lynxstop.errors import ConfigError
from lynxstop.evaluate.points import Trace, read_points, replay, training_of
from lynxstop.rules import Training
from lynxstop.rules.served import serve
from lynxstop.rules.table import rule_named

PROBLEMS = 8
CASES = [
    ("rpdi-short", BOUNDARY),
    ("thinkbrake", CUE),
    ("loop", INTERVAL),
    ("combined|lower", CUE | BOUNDARY | INTERVAL),
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(shipped.BUNDLE)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Greedy traces with decision points of all kinds."""
    base = Recipe.load(shipped.BUNDLE / "recipe.toml").model_dump()
    base["sampling"] |= {"temperature": 0.0, "max_tokens": 260, "answer_tokens": 4}
    base["guards"] |= {"budget": 220}
    base["points"] = {"boundaries": True, "every": 40}
    out = tmp_path_factory.mktemp("live") / "data"
    record(shipped.MODEL, shipped.problems(PROBLEMS, 9), out, Recipe.model_validate(base))
    return DataSet.open(out)


@pytest.fixture(scope="module")
def loaded(bundle: Bundle) -> Loaded:
    return load_engine(shipped.MODEL, bundle, batch_size=5)


def prepared(recorded: DataSet, bundle: Bundle, name: str, points: int) -> tuple[StopPolicy, list, list]:
    """A policy that serves the rule at a threshold that some points pass, and what replay says of it."""
    every = 40 if points & INTERVAL else 0
    guards = StopPolicy(bundle.policy.exit_ids, min_tokens=30, cooldown=5, points=points, every=every)
    rule = rule_named(name)
    logits = bundle.probe.score(recorded.features(bundle.probe.layers))
    traces = read_points(recorded, rule.signals, logits, guards)
    fitted = rule.fit(_training(traces))
    if "scales" in fitted.constants():
        traces = read_points(recorded, fitted.signals, logits, guards)
    scores = replay(fitted, traces).scores
    known = np.concatenate(scores)
    # halfway between two scores, so that the last bits of other batches decide nothing
    ladder = np.unique(known[np.isfinite(known)].round(3))
    place = int(0.7 * (len(ladder) - 1))
    threshold = float(ladder[place : place + 2].mean())
    level = Level(0.05, threshold)
    policy = StopPolicy(
        bundle.policy.exit_ids, (level,), 30, 5, budget=220, points=points, every=every, rule=serve(fitted)
    )
    hits = [next((i for i, score in enumerate(own) if score > threshold), None) for own in scores]
    return (
        policy,
        traces,
        [None if i is None else (t, i, s[i]) for t, i, s in zip(traces, hits, scores, strict=True)],
    )


def _training(traces: list[Trace]) -> Training:
    """Labels that alternate: so few greedy traces are all right, and nothing could be learnt."""
    made = training_of(traces, 220)
    return replace(made, losses=[np.arange(len(own)) % 2.0 for own in made.losses])


def prompts(loaded: Loaded) -> list[tuple[int, ...]]:
    texts = Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues)
    return [texts.prompt_ids(problem.prompt) for problem in shipped.problems(PROBLEMS, 9)]


@pytest.mark.parametrize(("name", "points"), CASES)
def test_the_engine_decides_as_replayed(
    recorded: DataSet, loaded: Loaded, bundle: Bundle, name: str, points: int
) -> None:
    # given what a rule would have decided on recorded traces
    policy, traces, expected = prepared(recorded, bundle, name, points)
    engine = TransformersEngine(
        loaded.engine.model, loaded.tokenizer, loaded.setup.watch, policy, probe=bundle.probe, batch_size=5
    )
    # when it is served
    requests = [Request(t.trace_id, ids, risk=0.05) for t, ids in zip(traces, prompts(loaded), strict=True)]
    live = {g.request.id: g for g in engine.generate(requests, Sampling(max_tokens=260, answer_tokens=4))}
    # then every request exits at the same point with the same score
    exits = 0
    for trace, decided in zip(traces, expected, strict=True):
        stop = live[trace.trace_id].exit
        if decided is None:
            assert stop is None or stop.reason == "budget"
            continue
        _, place, score = decided
        assert stop is not None
        assert (stop.reason, stop.thinking_tokens) == ("score", trace.at_exit[place])
        assert stop.score == pytest.approx(score, abs=5e-3)
        exits += 1
    assert exits > 0


@pytest.mark.parametrize("name", ["combined"])
def test_generate_decides_as_replayed(recorded: DataSet, loaded: Loaded, bundle: Bundle, name: str) -> None:
    policy, traces, expected = prepared(recorded, bundle, name, CUE | BOUNDARY)
    model = loaded.engine.model
    for trace, decided, ids in list(zip(traces, expected, prompts(loaded), strict=True))[:3]:
        with LynxStopProcessor(model, loaded.setup.watch, policy, probe=bundle.probe, risk=0.05) as stopper:
            model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                logits_processor=[stopper],
                max_new_tokens=260,
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
            assert stop.thinking_tokens == trace.at_exit[decided[1]]


def test_rules_that_need_trial_answers_are_not_served() -> None:
    with pytest.raises(ConfigError, match="trial"):
        serve(rule_named("cascade"))
