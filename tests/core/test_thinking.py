"""Thinking blocks open and close where the model's own delimiters say so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.surface import Surfaces, added_tokens, token_surfaces
from lynxstop.core.thinking import FAMILIES, Delimiters, compile_thinking, detect_delimiters
from lynxstop.errors import ConfigError, ModelError, TokenizerError

THINK = FAMILIES["think"]
SPECIAL = ["<think>", "</think>"]
GPT_OSS = ["<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|return|>"]


def vocabulary(texts, special=()):
    """Surfaces of these texts; those in `special` are special tokens."""
    private = {text: 257 + i for i, text in enumerate(special)}
    return Surfaces.of([(private[t],) if t in private else t.encode() for t in texts], private)


def trail(delimiters, special, *texts):
    """Whether a block is open after each of these tokens."""
    automaton = compile_thinking(
        delimiters, vocabulary([*texts, *delimiters.open, *delimiters.close], special)
    )
    state, inside = automaton.start, ""
    for token in range(len(texts)):
        state = automaton.step(state, token)
        inside += ".x"[automaton.inside(state)]
    return inside


def test_a_block_opens_and_closes():
    assert trail(THINK, SPECIAL, "so", "<think>", "a", "</think>", "b") == ".xx.."


def test_an_open_inside_a_block_does_not_nest():
    assert trail(THINK, SPECIAL, "<think>", "<think>", "</think>", "a") == "xx.."


def test_blocks_may_repeat_and_stray_closes_do_nothing():
    assert trail(THINK, SPECIAL, "</think>", "<think>", "</think>", "</think>", "<think>") == ".x..x"


def test_a_special_token_spelled_out_in_text_does_not_close():
    assert trail(THINK, SPECIAL, "<think>", "</", "think", ">", "a") == "xxxxx"


def test_delimiters_written_in_ordinary_tokens():
    assert trail(THINK, (), "<", "think", ">\n", "a</", "thin", "</think", ">\n\nSo") == "..xxxx."


def test_gpt_oss_thinks_in_its_analysis_channel():
    answer = ["<|channel|>", "final", "<|message|>", "4"]
    analysis = ["<|channel|>", "anal", "ysis", "<|message|>", "so"]
    assert trail(FAMILIES["gpt-oss"], GPT_OSS, *analysis, "<|end|>", "<|start|>", *answer) == "...xx......"
    assert trail(FAMILIES["gpt-oss"], GPT_OSS, *analysis, *answer) == "...xxx..."
    assert trail(FAMILIES["gpt-oss"], GPT_OSS, "<|channel|>", "comment", "analysis", "<|message|>") == "...."


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_opens_and_closes_in_bytes(family):
    text = "a" + family.open[0] + "b" + family.close[0] + "c"
    inside = trail(family, (), *text)
    begin, end = 1 + len(family.open[0]), 2 + len(family.open[0]) + len(family.close[0])
    assert inside == "." * (begin - 1) + "x" * (end - begin) + ".."


@given(st.lists(st.sampled_from(["<think>", "</think>", "x", "<", "/think>", "<think"]), max_size=12))
def test_automaton_agrees_with_a_walk_over_the_tokens(texts):
    inside, expected = False, ""
    for text in texts:
        inside = text == "<think>" if not inside else text != "</think>"
        expected += ".x"[inside]
    assert trail(THINK, SPECIAL, *texts) == expected


def test_ids_beyond_the_vocabulary_change_nothing():
    automaton = compile_thinking(THINK, vocabulary(SPECIAL, SPECIAL))
    assert automaton.inside(automaton.step(automaton.opened, 10**6))


def test_a_delimiter_that_no_token_can_write_is_refused():
    with pytest.raises(TokenizerError, match="close"):
        compile_thinking(THINK, vocabulary(["<think>", "a"], ["<think>"]))
    with pytest.raises(TokenizerError, match="open"):
        compile_thinking(THINK, vocabulary(["</think>", "a"]))


def test_delimiters_are_found_in_the_special_tokens(tokenizer, kind):
    assert detect_delimiters(tokenizer) == THINK
    special = {text: i for i, text in added_tokens(tokenizer).items()}
    automaton = compile_thinking(THINK, token_surfaces(tokenizer))
    opened = automaton.step(automaton.start, special["<think>"])
    assert automaton.inside(opened)
    assert not automaton.inside(automaton.step(opened, special["</think>"]))


class Templated:
    """A tokenizer with special tokens and a chat template."""

    def __init__(self, special, template=None):
        self.special_tokens_set = set(special)
        self.chat_template = template

    def decode_single_token_bytes(self, token):
        return b"a"

    def encode_single_token(self, text):
        return sorted(self.special_tokens_set).index(text)


@pytest.mark.parametrize(
    ("tokenizer", "family"),
    [
        (Templated(GPT_OSS), "gpt-oss"),
        (Templated(["[THINK]", "[/THINK]"]), "mistral"),
        (Templated(["<seed:think>", "</seed:think>"]), "seed"),
        (Templated([], "{{ '<think>\n' }}"), "think"),
        (Templated(["<|end|>"], {"default": "{{ content.split('</think>') }}"}), "think"),
    ],
)
def test_each_family_is_recognised(tokenizer, family):
    assert detect_delimiters(tokenizer) == FAMILIES[family]


def test_a_model_that_does_not_think_is_refused():
    with pytest.raises(ModelError, match="no thinking block"):
        detect_delimiters(Templated(["<|end|>"], "{{ content }}"))


@pytest.mark.parametrize("bad", [((), ("x",)), (("x",), ("",)), ("<think>", ("x",))])
def test_empty_delimiters_are_refused(bad):
    with pytest.raises(ConfigError):
        Delimiters(*bad)
