"""Cue words found in traces whose truth is known, and in real ones."""

import json
import tomllib
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.recipe import Recipe
from lynxstop.cli import app
from lynxstop.collect.recording import record
from lynxstop.core.points import BOUNDARY, CUE
from lynxstop.core.types import Tokens
from lynxstop.demo import held_out
from lynxstop.errors import DataError
from lynxstop.evaluate.compare import compare
from lynxstop.recordings.storage import Recording
from lynxstop.rules.table import rule_named
from lynxstop_research.cue_points import PARAGRAPH
from lynxstop_research.cue_search import search

STEPS = 6


class World:
    """Traces of six sentences; the answer settles somewhere, and only some openers show that it did.

    `openers` are words by whether the features in front of them tell; `end` closes a sentence.
    """

    def __init__(self, openers, end=". ", traces=150, body="{} {}"):
        draw = np.random.default_rng(0)
        fill = ("seven", "we", "that", "more")
        rows, texts, points, features = [], [], [], []
        for trace in range(traces):
            settled, text = draw.integers(STEPS), "Start"
            for step in range(STEPS):
                word = draw.choice(list(openers))
                text += end
                points.append((len(text.rstrip(" ")) - 1, step >= settled, trace))
                tells = 2.0 * (step >= settled) - 1.0 if openers[word] else 0.0
                features.append([tells + 0.1 * draw.normal(), draw.normal()])
                text += body.format(word, draw.choice(fill))
            texts.append(text)
            rows.append((f"t{trace}", f"p{trace}", STEPS, len(text), f"{text}</think>done"))
        names = ("trace_id", "problem_id", "cues", "thinking_tokens", "text")
        self._traces = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
        index, agrees, _ = map(list, zip(*points, strict=True))
        noise = {
            name: draw.normal(size=len(points))
            for name in ("entropy", "top_gap", "end_margin", "min_logprob", "mean_logprob")
        }
        self._cues = pa.table(
            {"kind": [BOUNDARY] * len(points), "word": ["."] * len(points), "index": index}
            | {"agrees": agrees, "thinking_at_exit": index, "position": [0] * len(points)}
            | noise
        )
        self._features = np.array(features, np.float32)
        self._texts = texts
        self.meta = SimpleNamespace(cue_words=(), cue_paragraph=False, think_close=("</think>",))

    def traces(self):
        return self._traces

    def cues(self):
        return self._cues

    def features(self, layers=None, rows=None):
        return self._features[rows]

    def tokens(self):
        for text in self._texts:
            ids = np.array([ord(character) for character in text], np.int32)
            yield Tokens(ids, np.ones(len(ids), bool), np.zeros((len(ids), 4), np.float32))


def decode(ids):
    return "".join(map(chr, ids))


def found_in(world, *more):
    return search(cast(Any, world), *more)


def by_word(found):
    return {word.word: word for word in found.words}


@pytest.mark.parametrize(
    ("telling", "mute", "end", "body"),
    [("wait", "so", ". ", "{} {}"), ("等等", "所以", "。", "{}，七")],
)
def test_the_word_that_tells_is_measured_and_proposed(telling, mute, end, body):
    # given exits that are foreseen before one word and not before the other
    found = found_in(World({telling: True, mute: False}, end, body=body), decode)
    # then their columns say so
    words = by_word(found)
    assert words[telling].probe_auc > 0.97
    assert abs(words[mute].probe_auc - 0.5) < 0.12
    assert abs(words[telling].statistics_auc - 0.5) < 0.12
    assert words[telling].points + words[mute].points == 150 * STEPS
    assert words[telling].points == pytest.approx(words[telling].per_trace * 150)
    assert words[telling].opens == 1.0
    assert 0.3 < words[telling].agree < 0.8
    # and the set is the telling word
    assert (found.basis, found.proposal.words, found.proposal.paragraph) == ("measured", (telling,), False)
    assert found.saved > 0.2


def test_statistics_decide_where_no_hidden_states_were_recorded():
    # given an engine without hidden states, whose entropy tells what the features told
    world = World({"wait": True, "so": False})
    entropy = pa.array(world._features[:, 0].astype(float))
    world._cues = world._cues.set_column(world._cues.column_names.index("entropy"), "entropy", entropy)
    world._features = world._features[:, :0]
    # when cues are looked for
    found = found_in(world, decode)
    # then they are proposed by the statistics
    word = by_word(found)["wait"]
    assert np.isnan(word.probe_auc)
    assert word.statistics_auc > 0.97
    assert (found.basis, found.proposal.words) == ("measured", ("wait",))


def test_both_words_are_taken_when_both_tell():
    found = found_in(World({"wait": True, "hmm": True}), decode)

    assert set(found.proposal.words) == {"wait", "hmm"}


def test_without_a_tokenizer_known_words_are_proposed_and_nothing_is_measured():
    found = found_in(World({"wait": True, "so": False}))

    words = by_word(found)
    assert words["so"].points == 0
    assert np.isnan([words["so"].agree, words["so"].probe_auc, words["so"].statistics_auc]).all()
    assert words["so"].per_trace + words["wait"].per_trace == pytest.approx(STEPS)
    assert (found.basis, found.proposal.words) == ("known", ("wait",))


@pytest.mark.parametrize("reader", [decode, None])
def test_paragraphs_are_proposed_to_a_model_that_never_says_wait(reader):
    # given thoughts whose paragraphs all begin with another word
    names = {f"{a}{b}x": True for a in "bcdfgklm" for b in "aeiou"}
    found = found_in(World(names, "\n\n", body="{}"), reader)

    assert (found.proposal.words, found.proposal.paragraph) == ((), True)
    assert by_word(found)[PARAGRAPH].per_trace == STEPS
    assert found.basis == ("measured" if reader else "known")


def test_traces_that_offer_nothing_are_refused():
    with pytest.raises(DataError, match="neither known cue words nor paragraphs"):
        found_in(World({"so": False}))


def test_words_inside_sentences_are_told_from_openers():
    found = found_in(World({"so": True}, body="{} {} wait"), decode)

    assert "wait" not in by_word(found)
    assert by_word(found)["so"].opens == 1.0


def test_real_traces_and_the_command(tmp_path):
    # given boundaries recorded with the shipped model, whose cues all begin a paragraph
    base = Recipe.load(shipped.BUNDLE / "recipe.toml").model_dump()
    base["sampling"] |= {"max_tokens": 320}
    base["guards"] |= {"budget": 280}
    base["points"] = {"boundaries": True, "every": 0}
    data = tmp_path / "data"
    record(shipped.MODEL, held_out.problems(20, 9), data, Recipe.model_validate(base))
    # when cues are looked for
    out = tmp_path / "cues.toml"
    arguments = ["cues", str(data), "--model", str(shipped.MODEL), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    # then words and paragraphs are found and measured, and the fragment is a recipe
    found = json.loads(done.stdout)
    words = {word["word"]: word for word in found["candidates"]}
    assert {"wait", "hmm", "check", PARAGRAPH} <= words.keys()
    assert words["check"]["points"] > 20
    assert words[PARAGRAPH]["points"] >= 0.9 * words[PARAGRAPH]["per_trace"] * 20
    assert words["wait"]["opens"] < 0.9 < words["check"]["opens"]
    assert found["basis"] == "measured"
    assert words[PARAGRAPH]["probe_auc"] > 0.6
    assert Recipe.load(out).cues.cue_set.words == tuple(found["proposal"]["words"])
    assert tomllib.loads(out.read_text())["cues"].get("paragraph", False) == found["proposal"]["paragraph"]
    # and rules can be compared there
    recording, rules = Recording.open(data), [rule_named("convergence")]
    looks = [
        cast(Any, compare(recording, rules, points=points).lines[0].published)["trials"]
        for points in (CUE, CUE | BOUNDARY)
    ]
    assert looks[1] > 3 * looks[0] > 0
    # and without the tokenizer only the recorded cues are measured
    alone = CliRunner().invoke(app, [*arguments[:2], "--json"], catch_exceptions=False)
    words = {word["word"]: word for word in json.loads(alone.stdout)["candidates"]}
    assert words["wait"]["points"] > 0
    assert words["check"]["points"] == 0


def test_a_foreign_tokenizer_is_refused(scripted):
    done = CliRunner().invoke(app, ["cues", str(scripted.path), "--model", str(shipped.MODEL)])

    assert isinstance(done.exception, DataError)
    assert "did not write" in done.exception.message
