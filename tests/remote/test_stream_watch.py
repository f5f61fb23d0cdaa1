"""The machines over texts agree with those over token ids."""

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lynxstop.core import stream
from lynxstop.core.cues import CueSet, compile_cues
from lynxstop.core.points import boundary_tokens
from lynxstop.core.stream import CLOSE, OPEN, StreamWatch, TextVocabulary
from lynxstop.core.surface import Surfaces
from lynxstop.core.thinking import Delimiters, compile_thinking
from lynxstop.core.watch import Watch
from lynxstop.errors import ConfigError

TEXTS = [
    b" so", b" wait", b"Wait", b"er", b" a", b"w", b"ait", b",", b" hmm.", b"\n\n", b"\n", b" hold", b" on",
    "é".encode(), "é".encode()[:1], "é".encode()[1:], b"<think>", b"</think>", b"</", b"think>", b"",
    b"<think>x",
]  # fmt: skip
CUES = CueSet(("wait", "hmm", "hold on"), paragraph=True)
THINK = Delimiters(("<think>",), ("</think>",))
SURFACES = Surfaces.of(TEXTS, {})
WATCH = Watch(compile_thinking(THINK, SURFACES), compile_cues(CUES, SURFACES), boundary_tokens(SURFACES))


def watched() -> StreamWatch:
    """The watch over texts; made within a test, so that a change of what makes it shows."""
    return StreamWatch(CUES, THINK)


tokens = st.lists(st.integers(0, len(TEXTS) - 1), max_size=40)


# a word that a block, or the end of a prompt, cuts in two is no cue
@example([], False, [TEXTS.index(b"<think>x"), TEXTS.index(b"Wait"), TEXTS.index(b",")])
@example([TEXTS.index(b"<think>"), TEXTS.index(b" a")], False, [TEXTS.index(b"Wait"), TEXTS.index(b",")])
@given(st.just([]) | tokens, st.booleans(), tokens)
def test_texts_show_what_their_tokens_show(prompt, opened, generated):
    watch = watched()
    prompt = prompt + [TEXTS.index(b"<think>")] * opened
    by_id = WATCH.start(prompt)
    by_text = watch.start(watch.vocabulary.number(TEXTS[token]) for token in prompt)
    for token in generated:
        number = watch.vocabulary.number(TEXTS[token])
        seen, shown = WATCH.read(by_id, token), watch.read(by_text, number)
        assert seen[1:] == shown[1:]
        assert (token in WATCH.boundaries) == (number in watch.boundaries)
        by_id, by_text = seen.state, shown.state


def test_a_change_of_field_opens_and_closes_a_block():
    watch = watched()
    state = watch.start(())
    for mark, inside in ((OPEN, True), (OPEN, True), (CLOSE, False), (CLOSE, False), (OPEN, True)):
        state = watch.read(state, mark).state
        assert watch.inside(state) is inside


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=60, unique=True))
def test_numbers_are_distinct_and_follow_from_the_bytes(texts):
    one, other = TextVocabulary(), TextVocabulary()
    numbers = [one.number(text) for text in texts]
    assert len(set(numbers)) == len(texts)
    assert all(CLOSE < number < 2**31 for number in numbers)
    assert [one.text(number) for number in numbers] == texts
    assert [other.number(text) for text in texts] == numbers


def test_texts_of_one_checksum_have_numbers_of_their_own():
    # given texts whose numbers would be the same, at the upper end too, and one whose number is taken
    for one, other in ((b"wait", b"\xa4\xee\\/"), (b",p\xca\xa4", b"\xff\xff\xff\xff")):
        assert (zlib.crc32(one) ^ zlib.crc32(other)) == 1 << 31
        made = TextVocabulary()
        numbers = [made.number(text) for text in (one, other, b"")]
        assert len({OPEN, CLOSE, *numbers}) == 5
        assert all(number < 2**31 for number in numbers)
        assert [made.text(number) for number in numbers] == [one, other, b""]


def test_pieces_that_are_no_tokens_are_refused_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(stream, "_MOST", 3)
    made = TextVocabulary()
    numbers = [made.number(text) for text in (b"a", b"b", b"c")]
    with pytest.raises(ConfigError, match="not tokens"):
        made.number(b"d")
    assert [made.number(text) for text in (b"a", b"b", b"c")] == numbers


@pytest.mark.parametrize(
    ("texts", "under_way"),
    [
        ([b" ho"], True),
        ([b" hold", b" on"], True),
        ([b".", b"\n"], True),
        ([b".\n", b"  "], True),
        ([b".\n", b"so"], False),
        ([b" so"], False),
    ],
)
def test_a_cue_may_be_under_way(texts, under_way):
    watch = watched()
    state = watch.start([OPEN])
    for text in texts:
        state = watch.read(state, watch.vocabulary.number(text)).state
    assert watch.open_cue(state.cue) is under_way


def test_a_cue_begins_where_its_word_does():
    watch = watched()
    texts = [b" so", b" the", b" ho", b"ld", b" on", b","]
    assert watch.cue_start(texts, 4) == (2, 0)
    assert watch.cue_start([b"so.", b"x Wait"], 1) == (1, 2)
    assert watch.cue_start([b"so.", b" \n Wait"], 1) == (1, 0)
    assert watch.cue_start([b"so.\n", b"\n"], 1) == (0, 3)
    assert watch.cue_start([b"so.", b"Wait"], 1) == (1, 0)
    # a cue that ended before the text does not count, nor does one within a word; of several the first
    assert watch.cue_start([b"wait", b" wait"], 1) == (1, 0)
    assert watch.cue_start([b"await wait"], 0) == (0, 6)
    assert watch.cue_start([b" hold", b" on, wait"], 1) == (0, 0)
