"""Cues count inside thinking blocks only."""

import random

import pytest

from lynxstop.core.cues import CueSet
from lynxstop.core.thinking import FAMILIES, Delimiters
from lynxstop.core.watch import Reader, check_exit, compile_watch
from lynxstop.errors import TokenizerError


def seen(words, prompt, *texts):
    """What each token showed: c confirmed, h here, p pending, - thinking, . not thinking."""
    state, shown = words.watch.start(words.ids(*prompt)), []
    for token in words.ids(*texts):
        what = words.watch.read(state, token)
        state = what.state
        marks = "c" * what.confirmed + "h" * what.here + "p" * what.pending
        shown.append(marks or "-" if what.thinking else ".")
    return " ".join(shown)


def test_cues_inside_a_block_that_the_prompt_opened(words):
    assert seen(words, ["<think>"], " wait", ",", " hmm.") == "p c h"


def test_no_cue_before_a_block_opens_or_after_it_closes(words):
    assert (
        seen(words, [], " wait", ",", "<think>", " wait", ",", "</think>", " wait", ",") == ". . - p c . . ."
    )


def test_a_cue_cut_off_by_the_close_is_none(words):
    assert seen(words, ["<think>"], " wait", "</think>", "<think>", ",") == "p . - -"


def test_a_cue_that_began_in_the_prompt_is_none(words):
    assert seen(words, ["<think>", " wait"], ",") == "-"
    assert seen(words, ["<think>", " hold"], " on", ",") == "- -"


def test_the_last_character_of_the_prompt_is_remembered(words):
    assert seen(words, ["<think>", " a"], "wait", ",") == "- -"
    assert seen(words, ["<think>", ","], "wait", ",") == "p c"


def test_an_exit_must_close_the_block(words):
    check_exit(words.watch, words.ids("\n\n", "</think>", " so"))
    cases: tuple[list[int], ...] = ([], words.ids(" so"), words.ids("</think>", "<think>"))
    for bad in cases:
        with pytest.raises(TokenizerError, match="does not close"):
            check_exit(words.watch, bad)


def test_an_exit_must_not_end_the_text(words):
    exit_ids = words.ids("</think>", " so")
    check_exit(words.watch, exit_ids, {None, 10**6})
    with pytest.raises(TokenizerError, match="ends a text"):
        check_exit(words.watch, exit_ids, exit_ids[-1:])


def test_compile_watch_reads_a_whole_text(tokenizers):
    tokenizer = tokenizers["byte-level"]
    watch = compile_watch(tokenizer, CueSet(("wait", "hold on")), FAMILIES["think"])
    text = "wait, <think>Wait, the waiter must hold  on, await.</think> wait, "
    ids = tokenizer.encode(text).ids
    state, spans = watch.start([]), []
    for i, token in enumerate(ids):
        what = watch.read(state, token)
        state = what.state
        if what.confirmed or what.here:
            spans.append(tokenizer.decode(ids[: i if what.confirmed else i + 1], skip_special_tokens=False))
    assert spans == ["wait, <think>Wait", "wait, <think>Wait, the waiter must hold  on"]


@pytest.mark.parametrize("delimiters", [FAMILIES["think"], Delimiters(("[THINK]",), ("[/THINK]",))])
def test_a_prompt_is_read_as_token_by_token(tokenizers, delimiters):
    tokenizer = tokenizers["byte-level"]
    watch = compile_watch(tokenizer, CueSet(("wait", "hold on")), delimiters)
    [opened], [closed] = delimiters.open, delimiters.close
    texts = f"{opened}{closed} wait, {opened} hold on {closed}[THINK[/THINK[]]</thin größer\n\n"
    # Those of delimiters, their parts, and any others; one is not in the vocabulary.
    often = [
        *tokenizer.encode(texts).ids,
        *tokenizer.encode(opened).ids,
        *tokenizer.encode(closed).ids,
        10**6,
    ]
    chance = random.Random(0)
    seen = set()
    for _ in range(2000):
        prompt: list[int] = []
        while chance.random() < 0.97:
            whole = chance.choice((opened, closed, opened[:3], " wait", "é"[: chance.randrange(2)]))
            prompt += tokenizer.encode(whole).ids if chance.random() < 0.4 else [chance.choice(often)]
        expected = Reader.start(watch, prompt)
        assert watch.start(iter(prompt)) == expected
        seen.add((watch.inside(expected), expected.cue, len(prompt) > 64))
    assert {inside for inside, _, _ in seen} == {cue > 0 for _, cue, _ in seen} == {True, False}
    assert any(long for _, _, long in seen)
