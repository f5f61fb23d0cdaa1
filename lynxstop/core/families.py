"""The model families: how each delimits its thinking, as data.

A family is a row of `ROWS`. `parsers` are the reasoning parsers of vLLM that it answers to, so that the two
lists can be compared; the delimiters were read from the sources of vLLM 0.32 and 0.33.
"""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """One notation of thinking.

    Parameters
    ----------
    name : str
    open, close : tuple of str
        Any of these opens, respectively closes, a block. The first one of `close` is what an exit writes.
    answer : str
        What follows the closing delimiter where an answer has an opening of its own; empty where the answer
        simply follows.
    parsers : tuple of str
        Names under which vLLM parses this notation.
    """

    name: str
    open: tuple[str, ...]
    close: tuple[str, ...]
    answer: str = ""
    parsers: tuple[str, ...] = ()


_THINK_PARSERS = (
    "deepseek_r1", "deepseek_v3", "deepseek_v4", "deepseek_v41", "ernie45", "glm45", "glm47",
    "granite_thinking_parser", "holo2", "hunyuan_a13b", "hy_v3", "hy_v4", "kimi_k2", "ling3", "mimo",
    "minicpmv", "minimax_m2", "minimax_m2_append_think", "nemotron_v3", "olmo3", "poolside_v1", "qwen3",
    "step3", "step3p5", "step5",
)  # fmt: skip

ROWS = (
    Family("minimax-m3", ("<mm:think>",), ("</mm:think>",), parsers=("minimax_m3",)),
    Family("gemma4", ("<|channel>",), ("<channel|>",), parsers=("gemma4",)),
    Family(
        "kimi-k3",
        ("<|open|>think<|sep|>",),
        ("<|close|>think<|sep|>",),
        "<|open|>response<|sep|>",
        ("kimi_k3",),
    ),
    Family(
        "inkling",
        ("<|content_thinking|>",),
        ("<|end_message|>", "<|content_model_end_sampling|>"),
        "<|message_model|><|content_text|>",
        ("inkling",),
    ),
    Family(
        "muse",
        ("to=self<|message|>",),
        ("<|eom|>", "<|eot|>", "to=user<|message|>"),
        "<|start|>assistant to=user<|message|>",
        ("muse", "muse_glimmer", "musespark1x"),
    ),
    Family("k2-horizon", ("<ifm|think>",), ("</ifm|think>",), parsers=("k2_horizon",)),
    Family("k2-horizon-fast", ("<ifm|think_fast>",), ("</ifm|think_fast>",)),
    Family("k2-horizon-faster", ("<ifm|think_faster>",), ("</ifm|think_faster>",)),
    Family("plamo", ("<|plamo:begin_think:plamo|>",), ("<|plamo:end_think:plamo|>",), parsers=("plamo3",)),
    Family("think", ("<think>",), ("</think>",), parsers=_THINK_PARSERS),
    Family(
        "gpt-oss",
        ("<|channel|>analysis<|message|>",),
        ("<|end|>", "<|channel|>final"),
        "<|start|>assistant<|channel|>final<|message|>",
        ("openai_gptoss",),
    ),
    Family("mistral", ("[THINK]",), ("[/THINK]",), parsers=("mistral",)),
    Family("seed", ("<seed:think>",), ("</seed:think>",), parsers=("seed_oss",)),
    Family(
        "cohere",
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        "<|START_RESPONSE|>",
        ("cohere_command3", "cohere_command4"),
    ),
    Family("kimi", ("◁think▷",), ("◁/think▷",)),
    Family("thought", ("<thought>",), ("</thought>",)),
    Family("thinking", ("<thinking>",), ("</thinking>",)),
    Family(
        "granite",
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
        parsers=("granite",),
    ),
)
"""In the order in which they are tried: a vocabulary may keep the plain `<think>` beside its own notation."""

NO_FAMILY = {
    "hf": "reads its delimiters from the response template of the checkpoint; name them in the recipe",
    "beam": "reads its delimiters from the response template of the checkpoint; name them in the recipe",
}
"""Reasoning parsers of vLLM without a row, and why."""
