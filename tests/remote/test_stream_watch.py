"""The machines over texts agree with those over token ids."""

from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.cues import CueSet, compile_cues
from lynxstop.core.points import boundary_tokens
from lynxstop.core.stream import CLOSE, OPEN, StreamWatch, Vocabulary
from lynxstop.core.surface import Surfaces
from lynxstop.core.thinking import Delimiters, compile_thinking
from lynxstop.core.watch import Watch

TEXTS = [
    b" so", b" wait", b"Wait", b"er", b" a", b"w", b"ait", b",", b" hmm.", b"\n\n", b"\n", b" hold", b" on",
    "é".encode(), "é".encode()[:1], "é".encode()[1:], b"<think>", b"</think>", b"</", b"think>", b"",
]  # fmt: skip
CUES = CueSet(("wait", "hmm", "hold on"), paragraph=True)
THINK = Delimiters(("<think>",), ("</think>",))
SURFACES = Surfaces.of(TEXTS, {})
WATCH = Watch(compile_thinking(THINK, SURFACES), compile_cues(CUES, SURFACES), boundary_tokens(SURFACES))
STREAM = StreamWatch(CUES, THINK)


@given(st.lists(st.integers(0, len(TEXTS) - 1), max_size=40))
def test_texts_show_what_their_tokens_show(tokens):
    by_id, by_text = WATCH.start(()), STREAM.start(())
    for token in tokens:
        number = STREAM.vocabulary.number(TEXTS[token])
        seen, shown = WATCH.read(by_id, token), STREAM.read(by_text, number)
        assert seen[1:] == shown[1:]
        assert (token in WATCH.boundaries) == (number in STREAM.boundaries)
        by_id, by_text = seen.state, shown.state


def test_a_change_of_field_opens_and_closes_a_block():
    state = STREAM.start(())
    for mark, inside in ((OPEN, True), (OPEN, True), (CLOSE, False), (CLOSE, False), (OPEN, True)):
        state = STREAM.read(state, mark).state
        assert STREAM.inside(state) is inside


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=60, unique=True))
def test_numbers_are_distinct_and_follow_from_the_bytes(texts):
    one, other = Vocabulary(), Vocabulary()
    numbers = [one.number(text) for text in texts]
    assert len(set(numbers)) == len(texts)
    assert all(CLOSE < number < 2**31 for number in numbers)
    assert [one.text(number) for number in numbers] == texts
    assert [other.number(text) for text in texts] == numbers


def test_a_cue_begins_where_its_word_does():
    texts = [b" so", b" the", b" ho", b"ld", b" on", b","]
    assert STREAM.cue_start(texts, 4) == (2, 0)
    assert STREAM.cue_start([b"so.", b"x Wait"], 1) == (1, 2)
    assert STREAM.cue_start([b"so.", b" \n Wait"], 1) == (1, 0)
    assert STREAM.cue_start([b"so.\n", b"\n"], 1) == (0, 3)
