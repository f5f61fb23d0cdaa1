"""Every signal, token by token, equals its definition on the whole stream."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.statistics import Statistics
from lynxstop.errors import ConfigError
from lynxstop.signals.eat import SmoothedVariance
from lynxstop.signals.embedding import EmbeddingRedundancy
from lynxstop.signals.panel import Panel
from lynxstop.signals.repetition import Loop
from lynxstop.signals.table import SIGNALS, signal

NUMBER = st.floats(0, 8, width=32)
STEPS = st.lists(
    st.builds(lambda t, e, g, m, p: (t, Statistics(e, g, m, -p)), st.integers(0, 3), *[NUMBER] * 4),
    min_size=1,
    max_size=60,
)
CUES = st.lists(st.sampled_from([None, None, None, 0, 1]), min_size=60, max_size=60)


def stream(key, steps, cues=()):
    """Values behind every token; `cues` says, per token, how far behind it a cue was completed."""
    one, values = signal(key), []
    for place, (token, statistics) in enumerate(steps):
        one.step(token, statistics)
        values.append(one.value())
        if place < len(cues) and cues[place] is not None and place:
            one.cue(cues[place])
    return values


def segment(steps, cues):
    """The tokens of the present step."""
    start = 0
    for place in range(1, len(steps) - 1):
        if cues[place] is not None:
            start = place + 1 - cues[place]
    return steps[start:]


@given(STEPS, st.integers(1, 20))
def test_rpdi_is_the_ratio_of_two_means(steps, window):
    entropies = [s.entropy for _, s in steps]
    got = stream(f"rpdi:{window}", steps)[-1]
    if len(steps) < window or not sum(entropies):
        assert math.isnan(got)
    else:
        assert got == pytest.approx(np.mean(entropies[-window:]) / np.mean(entropies), abs=1e-9)


@given(STEPS, st.integers(1, 20))
def test_the_other_reading_counts_high_entropies(steps, window):
    high = [s.entropy > 2.5 for _, s in steps]
    got = stream(f"transitions:{window}", steps)[-1]
    if len(steps) < window or not any(high):
        assert math.isnan(got)
    else:
        assert got == pytest.approx(np.mean(high[-window:]) / np.mean(high), abs=1e-9)


@given(STEPS, CUES)
def test_log_probabilities_are_those_since_the_cue(steps, cues):
    own = [s.logprob for _, s in segment(steps, cues)]
    assert stream("min_logprob", steps, cues)[-1] == min(own)
    assert stream("mean_logprob", steps, cues)[-1] == pytest.approx(np.mean(own))


@given(STEPS, CUES)
def test_positions_count(steps, cues):
    assert stream("tokens", steps, cues)[-1] == len(steps)
    assert stream("step", steps, cues)[-1] == len(segment(steps, cues))
    assert stream("cues", steps, cues)[-1] == sum(c is not None for c in cues[1 : len(steps) - 1])


@given(STEPS, CUES)
def test_redundancy_is_the_share_of_known_n_grams(steps, cues):
    tokens = [token for token, _ in steps]
    grams = [tuple(tokens[i - 3 : i + 1]) for i in range(3, len(tokens))]
    known = [gram in grams[:i] for i, gram in enumerate(grams)]
    own = known[max(0, len(steps) - len(segment(steps, cues)) - 3) :] if known else []
    got = stream("redundancy", steps, cues)[-1]
    if len(own) < 4:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(np.mean(own))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=50))
def test_loops_are_the_longest_run_of_a_period(tokens):
    def repeats(period):
        run = 0
        while run + period < len(tokens) and tokens[-1 - run] == tokens[-1 - run - period]:
            run += 1
        return run / period

    steps = [(token, Statistics(0, 0, 0, 0)) for token in tokens]
    assert stream("loop:8", steps)[-1] == max(repeats(period) for period in range(1, 9))


def test_a_loop_keeps_no_more_than_its_longest_period():
    one = signal("loop:8")
    assert isinstance(one, Loop)
    for token in range(1000):
        one.step(token, Statistics(0, 0, 0, 0))
    assert len(one._places) == 8


@given(STEPS)
def test_sure_runs_end_at_an_unsure_token(steps):
    run = 0
    for _, statistics in steps:
        run = run + 1 if statistics.entropy < 0.1 else 0
    assert stream("sure_run", steps)[-1] == run


@given(st.lists(NUMBER, min_size=2, max_size=30))
def test_smoothed_variance_is_that_of_exponential_weights(values):
    smoothed = SmoothedVariance(0.2)
    for value in values:
        got = smoothed.add(value)
    weights = np.array(
        [0.8 ** (len(values) - 1)] + [0.2 * 0.8 ** (len(values) - 1 - i) for i in range(1, len(values))]
    )
    mean = weights @ values
    assert got == pytest.approx(weights @ (np.array(values) - mean) ** 2, abs=1e-6)


def test_embeddings_compare_whole_steps():
    vectors = {1: [1.0, 0.0], 2: [0.0, 1.0], 3: [1.0, 1.0]}
    redundancy = EmbeddingRedundancy(lambda tokens: np.array(vectors[tokens[0]], np.float32), least=1)
    values = []
    for token in (1, 2, 3):
        redundancy.step(token, Statistics(0, 0, 0, 0))
        redundancy.cue(0)
        values.append(redundancy.value())
    assert math.isnan(values[0])
    assert values[1:] == [pytest.approx(0.0), pytest.approx(2**-0.5)]


@given(STEPS)
def test_unknown_statistics_never_raise_and_never_poison(steps):
    unknown = Statistics(*[math.nan] * 4)
    panel = Panel(SIGNALS)
    for token, statistics in steps:
        panel.step(token, unknown)
        panel.values()
        panel.step(token, statistics)
    values = panel.values()
    assert math.isfinite(values["entropy"])
    assert math.isfinite(values["mean_logprob"])


def test_an_unknown_signal_lists_the_known_ones():
    with pytest.raises(ConfigError, match="rpdi"):
        signal("nonsense")
    with pytest.raises(ConfigError, match="does not take"):
        signal("rpdi:x")


@given(STEPS, st.integers(1, 9), st.integers(0, 1))
def test_tokens_in_a_row_are_read_as_one_by_one(steps, size, ago):
    at_once, alone = Panel(SIGNALS), Panel(SIGNALS)
    for start in range(0, len(steps), size):
        part = steps[start : start + size]
        at_once.steps(*zip(*part, strict=True))
        for token, statistics in part:
            alone.step(token, statistics)
        assert repr(at_once.values()) == repr(alone.values())
        at_once.cue(ago)
        alone.cue(ago)
