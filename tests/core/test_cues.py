"""The token automaton finds the cues that the reference finds in the text, in any tokenization."""

import string
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynxstop.core.cues import CONFIRMED, CUE_SETS, HERE, PENDING, CueSet, compile_cues, cue_set, find_cues
from lynxstop.core.surface import INERT, Surfaces, token_surfaces
from lynxstop.errors import ConfigError, TokenizerError

LATIN = ("wait", "hmm", "hold on")
WORDS = {
    "byte-level": CueSet((*LATIN, "élan", "подожди", "等等"), paragraph=True),
    "sentencepiece": CueSet((*LATIN, "élan", "подожди", "等等"), paragraph=True),
    "metaspace": CueSet((*LATIN, "élan", "подожди", "等等"), paragraph=True),
    "tiktoken": CueSet((*LATIN, "élan", "подожди", "等等"), paragraph=True),
    "wordpiece": CueSet((*LATIN, "élan", "подожди", "等等")),
    "wordpiece-slow": CueSet((*LATIN, "élan", "подожди", "等等")),
    "word-end": CueSet((*LATIN, "élan", "подожди", "等等")),
    "word-level": CueSet((*LATIN, "élan", "подожди", "等等")),
}
ASCII_WORD = string.ascii_letters + string.digits + "_"
FORMS = [
    *(*LATIN, "élan", "ÉLAN", "подожди", "等等", "Wait", "HMM", "Hold\n on"),
    *(
        "await",
        "waiter",
        "wait_",
        "wаit",
        "\n\n",
        "\n",
        " ",
        ",",
        "。",
        "等",
        "à",
        "—",
        "\u1fff",
        "\u2000",
        "¿",
        "\u00c0",
    ),
]
SEPARATOR = "\ufffc".encode()


def wordly(data, i):
    """Class of the broken character at byte i: continuation bytes belong to what comes before them."""
    while i >= 0 and 0x80 <= data[i] < 0xC0:
        i -= 1
    return i >= 0 and (0xC3 <= data[i] <= 0xE1 or chr(data[i]) in ASCII_WORD)


def decode(data):
    """Text of any bytes, and the byte offset behind each character; broken ones keep only their class."""
    text, ends, i = [], [], 0
    while i < len(data):
        for length in (1, 2, 3, 4):
            try:
                text.append(data[i : i + length].decode())
                break
            except UnicodeDecodeError:
                continue
        else:
            length = 1
            text.append("À" if wordly(data, i) else "\ufffd")
        i += length
        ends.append(i)
    return "".join(text), ends


def expected(surfaces, tokens, cues):
    """Indices of the tokens that complete a cue, by the reference."""
    data, owner = b"", []
    for index, token in enumerate(tokens):
        symbols = surfaces[token]
        piece = SEPARATOR if symbols[0] >= INERT else bytes(symbols)
        data += piece
        owner += [index] * len(piece)
    text, ends = decode(data)
    return {owner[ends[end - 1] - 1] for end in find_cues(text, cues)}


def found(automaton, tokens):
    """The same by the automaton; a cue left pending at the end counts."""
    state, events, pending = automaton.start, set(), False
    for index, token in enumerate(tokens):
        state, flags = automaton.step(state, token)
        assert pending or not flags & CONFIRMED
        if flags & CONFIRMED:
            events.add(index - 1)
        if flags & HERE:
            events.add(index)
        pending = bool(flags & PENDING)
    return events | ({len(tokens) - 1} if pending else set())


@pytest.fixture(scope="session")
def compiled(tokenizers):
    surfaces = {kind: token_surfaces(tokenizer) for kind, tokenizer in tokenizers.items()}
    return {kind: (surfaces[kind], compile_cues(WORDS[kind], surfaces[kind])) for kind in surfaces}


@pytest.fixture(scope="session")
def cue_tokens(tokenizers, encode):
    """Tokens of cues in many forms, so that random streams are not only noise."""
    return {
        kind: [ids for form in FORMS for text in (form, " " + form) if (ids := encode(tokenizer, text))]
        for kind, tokenizer in tokenizers.items()
    }


def part(tokens):
    """A beginning of a cue's tokens."""
    return st.integers(1, len(tokens)).map(lambda length: tokens[:length])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_automaton_agrees_with_the_reference_on_random_tokens(compiled, cue_tokens, kind, data):
    surfaces, automaton = compiled[kind]
    cue = st.sampled_from(cue_tokens[kind])
    anything = st.lists(st.integers(0, len(surfaces) + 2), max_size=2)
    runs = data.draw(st.lists(cue | cue.flatmap(part) | anything, max_size=12))
    tokens = list(chain.from_iterable(runs))
    assert found(automaton, tokens) == expected(surfaces, tokens, WORDS[kind])


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(FORMS), max_size=8), seed=st.integers(0, 2**32 - 1))
def test_automaton_agrees_with_the_reference_however_the_text_is_cut(parts, seed):
    """Cut the bytes of a text anywhere, even inside characters."""
    data, rng = "".join(parts).encode(), np.random.default_rng(seed)
    cuts = [0, *np.flatnonzero(rng.random(len(data)) < 0.4).tolist(), len(data)]
    pieces = [data[a:b] for a, b in pairwise(cuts) if a < b]
    surfaces = Surfaces.of([*pieces, *(bytes([byte]) for byte in range(256))], {})
    automaton = compile_cues(WORDS["byte-level"], surfaces)
    tokens = list(range(len(pieces)))
    assert found(automaton, tokens) == expected(surfaces, tokens, WORDS["byte-level"])


def test_ids_beyond_the_vocabulary_are_boundaries(words):
    automaton, size = words.watch.cues, len(words.surfaces)
    pending, _ = automaton.step(automaton.start, *words.ids(" wait"))
    for token in range(size, 2 * size):
        assert automaton.step(pending, token) == (automaton.start, CONFIRMED)
        following, flags = automaton.step_many(np.array([pending], dtype=np.int32), np.array([token]))
        assert (following.tolist(), flags.tolist()) == ([automaton.start], [CONFIRMED])


def test_case_beyond_ascii_may_change_the_length():
    assert find_cues("GROSS Groß", CueSet(("groß",))) == [5, 10]


@given(data=st.data())
def test_batched_step_equals_the_scalar_one(compiled, kind, data):
    surfaces, automaton = compiled[kind]
    states = data.draw(st.lists(st.integers(0, len(automaton.settled) - 1), min_size=1, max_size=5))
    tokens = [data.draw(st.integers(0, len(surfaces) + 5)) for _ in states]
    following, flags = automaton.step_many(np.array(states, dtype=np.int32), np.array(tokens))
    assert list(zip(following, flags, strict=True)) == [
        automaton.step(s, t) for s, t in zip(states, tokens, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("Wait, what", [4]),
        ("I await the waiter", []),
        ("wait", [4]),
        ("wait_ wait2 waité", []),
        ("hold \n on!", [9]),
        ("holdon hold", []),
        ("wAiT", [4]),
        ("Élan ÉLAN bélan", [4, 9]),
        ("等等等", [2, 3]),
        ("a\n \nb", [4]),
        ("a\n\n\n\nb\n\nc", [3, 8]),
        ("a\r\n\r\nb", [5]),
    ],
)
def test_reference_reads_words_phrases_and_paragraphs(text, ends):
    assert find_cues(text, WORDS["byte-level"]) == ends


def steps(words, *texts):
    automaton, state, shown = words.watch.cues, words.watch.cues.start, []
    for token in words.ids(*texts):
        state, flags = automaton.step(state, token)
        shown.append(flags)
    return shown


def test_a_word_that_ends_with_its_token_waits_for_the_next(words):
    assert steps(words, " wait", ",") == [PENDING, CONFIRMED]
    assert steps(words, " wait", "er", ",") == [PENDING, 0, 0]


def test_a_token_with_its_own_boundary_needs_no_next(words):
    assert steps(words, " hmm.") == [HERE]


def test_one_token_may_confirm_a_cue_and_complete_another(words):
    assert steps(words, " wait", " wait", "\n\n") == [PENDING, CONFIRMED | PENDING, CONFIRMED | HERE]


def test_a_phrase_spans_tokens(words):
    assert steps(words, " hold", "\n\n", " on", ",") == [0, HERE, PENDING, CONFIRMED]


def test_a_word_inside_another_is_no_cue(words):
    assert steps(words, " a", "wait", ",") == [0, 0, 0]


def test_settling_forgets_the_match_but_not_the_boundary(words):
    automaton = words.watch.cues
    wait, comma = words.ids("wait", ",")
    start = automaton.start
    pending = automaton.settle(automaton.step(start, wait)[0])
    assert automaton.step(pending, comma)[1] == 0
    assert automaton.step(pending, wait)[1] == 0
    assert automaton.step(automaton.settle(automaton.step(start, comma)[0]), wait)[1] == PENDING


def test_a_word_that_no_token_can_write_is_named():
    surfaces = Surfaces.of([b"w", b"a", b"i", b"t", b" "], {})
    compile_cues(CueSet(("wait",)), surfaces)
    with pytest.raises(TokenizerError, match="'hmm'") as caught:
        compile_cues(CueSet(("wait", "hmm"), paragraph=True), surfaces)
    assert "'wait'" not in str(caught.value)
    assert "paragraph" in str(caught.value)


def test_a_word_that_only_occurs_inside_a_token_can_be_written():
    compile_cues(CueSet(("wait",)), Surfaces.of([b" wait."], {}))
    with pytest.raises(TokenizerError):
        compile_cues(CueSet(("wait",)), Surfaces.of([b" waiting.", b"a"], {}))


def test_every_named_set_can_be_written_in_bytes():
    surfaces = Surfaces.of([bytes([byte]) for byte in range(256)], {})
    for cues in CUE_SETS.values():
        compile_cues(cues, surfaces)


def test_names_join_to_a_union():
    both = cue_set("lynx+paragraph")
    assert both == CueSet(CUE_SETS["lynx"].words, paragraph=True)
    with pytest.raises(ConfigError, match="klingon"):
        cue_set("en+klingon")


@pytest.mark.parametrize("bad", [(), ("",), ("wait", " "), "wait"])
def test_a_cue_set_without_words_is_refused(bad):
    with pytest.raises(ConfigError):
        CueSet(bad)
