"""The decision replayed on a recorded full trace is the decision of the live request, request by request."""

import numpy as np
import pytest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.recording import record
from lynxstop.collect.texts import Texts
from lynxstop.core.exits import Reason
from lynxstop.core.rule import eligible_mask
from lynxstop.core.types import Request, Sampling
from lynxstop.demo import held_out
from lynxstop.engines.transformers.loading import LoadedModel, load_engine
from lynxstop.grading.grading import grade
from lynxstop.recordings.storage import Recording
from lynxstop.replay.serving import scores_of
from tests.support.first_exit import first_exit

REQUESTS = 200


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(shipped.BUNDLE)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    out = tmp_path_factory.mktemp("replay") / "data"
    recipe = Recipe.load(shipped.BUNDLE / "recipe.toml")
    record(shipped.MODEL, held_out.problems(REQUESTS, 5), out, recipe, CollectOptions(seed=3))
    return Recording.open(out)


@pytest.fixture(scope="module")
def loaded(bundle: Bundle) -> LoadedModel:
    return load_engine(shipped.MODEL, bundle, batch_size=48)


@pytest.mark.parametrize("risk", [0.01, 0.05])
def test_transformers_decides_live_as_replayed(
    recorded: Recording, loaded: LoadedModel, bundle: Bundle, risk: float
) -> None:
    # given recorded full traces, their cues and the answers forced there
    policy = bundle.policy.stop_policy()
    threshold = policy.level(risk).threshold
    scores = scores_of(bundle, recorded)
    cues = recorded.cues().to_pylist()
    traces = recorded.traces().to_pylist()
    starts = np.concatenate([[0], np.cumsum([trace["cues"] for trace in traces])])
    texts = Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues)

    # when the same requests run live, in other batches
    prompts = {problem.id: problem.prompt for problem in held_out.problems(REQUESTS, 5)}
    requests = [
        Request(trace["trace_id"], texts.prompt_ids(prompts[trace["problem_id"]]), risk=risk)
        for trace in traces
    ]
    sampling = Sampling(**bundle.policy.sampling.model_dump(), seed=3)
    live = {generation.request.id: generation for generation in loaded.engine.generate(requests, sampling)}

    # then every request exits at the same cue, by the same comparison, with the same answer
    exits = 0
    for trace, start, end in zip(traces, starts, starts[1:], strict=False):
        positions = np.array([cue["position"] for cue in cues[start:end]], dtype=np.int64)
        hit = first_exit(scores[start:end], eligible_mask(policy, positions), threshold)
        generation = live[trace["trace_id"]]
        stop = generation.exit
        answer = grade(texts.after_thinking(texts.decode(generation.output_ids)), trace["gold"])
        if hit < 0:
            assert stop is None or stop.reason is Reason.BUDGET
            assert answer.answer == trace["full_answer"]
            continue
        cue = cues[start + hit]
        assert stop is not None
        assert (stop.cue, stop.seen_at, stop.thinking_tokens) == (
            hit,
            cue["seen_at"],
            cue["thinking_at_exit"],
        )
        assert stop.score == pytest.approx(float(scores[start + hit]), abs=1e-3)
        assert answer.answer == cue["trial_answer"]
        exits += 1
    assert exits > REQUESTS / 2


def test_requests_of_a_group_stop_by_their_groups_threshold(loaded: LoadedModel, bundle: Bundle) -> None:
    # given a policy whose group may never exit
    from lynxstop.core.policy import Level, StopPolicy
    from lynxstop.engines.transformers import TransformersEngine

    pooled = bundle.policy.stop_policy().level(0.05)
    policy = StopPolicy(
        exit_ids=bundle.policy.exit_ids,
        levels=(pooled, Level(0.05, float("inf"), "careful")),
        budget=bundle.policy.budget,
    )
    engine = TransformersEngine(
        loaded.engine.model, loaded.tokenizer, loaded.setup.watch, policy, probe=bundle.probe
    )
    texts = Texts(loaded.tokenizer, loaded.setup.delimiters, loaded.setup.cues)
    prompt = texts.prompt_ids(held_out.problems(1, 5)[0].prompt)
    requests = [
        Request(f"{n}/{group}", prompt, risk=0.05, group=group)
        for n in range(6)
        for group in ("careful", "unknown")
    ]

    done = list(engine.generate(requests, Sampling(**bundle.policy.sampling.model_dump())))

    stopped = {g.request.group for g in done if g.exit is not None and g.exit.reason is Reason.SCORE}
    assert stopped == {"unknown"}
