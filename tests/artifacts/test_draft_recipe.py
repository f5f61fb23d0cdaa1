"""A recipe drafted from a model's files says what they say, and names what they do not."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.recipe import Recipe
from lynxstop.cli import app
from lynxstop.errors import ModelError
from lynxstop.workflows.check_recipe import check_recipe
from lynxstop.workflows.draft_recipe import draft_recipe
from tests.support.byte_vocabulary import byte_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|end|>{% endfor %}"
)
CHANNELS = (
    "{% for m in messages %}{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}{% endfor %}"
)


def folder(path: Path, special: list[str], template: str | None = None, **files: dict[str, Any]) -> Path:
    tokenizer = byte_tokenizer([*special, "<|start|>", "<|end|>"])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_everything_is_read_that_is_there(tmp_path: Path) -> None:
    # given a model of 28 layers that thinks, with a template and sampling parameters
    config = {"num_hidden_layers": 28, "max_position_embeddings": 4096, "model_type": "qwen3"}
    generation = {"do_sample": True, "temperature": 0.7, "top_p": 0.8}
    path = folder(
        tmp_path / "model", ["<think>", "</think>"], TEMPLATE, config=config, generation_config=generation
    )

    draft = draft_recipe(path)

    # then its recipe holds them, and reads back from TOML
    recipe = draft.recipe
    assert recipe.thinking.open == ("<think>",)
    assert recipe.thinking.special is True
    assert recipe.exit.text == "\n{close}\n\nThe final answer is \\boxed{"
    assert recipe.probe.layers == (9, 16, -1)
    assert recipe.sampling.model_dump() == {
        "temperature": 0.7, "top_p": 0.8, "top_k": 50, "max_tokens": 3072, "answer_tokens": 128
    }  # fmt: skip
    assert (recipe.source.models, recipe.source.depth, recipe.source.checked) == (("model",), 28, True)
    (tmp_path / "recipe.toml").write_text(draft.as_toml())
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    assert not [line for line in draft.unknown if "cue words" not in line and "boxed" not in line]


def test_the_template_says_how_an_answer_is_opened(tmp_path: Path) -> None:
    marks = ["<|channel|>", "<|message|>"]
    shown = draft_recipe(folder(tmp_path / "shown", marks, CHANNELS)).recipe
    silent = draft_recipe(folder(tmp_path / "silent", marks)).recipe
    opened = "<|start|>assistant<|channel|>final<|message|>The final answer is \\boxed{"
    assert shown.exit.text == silent.exit.text == "{close}" + opened


def test_an_end_of_text_in_the_template_is_not_forced(tmp_path: Path) -> None:
    # given a template that ends a text between the thought and the answer, as two requests would
    path = folder(
        tmp_path / "model", ["<think>", "</think>"], TEMPLATE.replace("</think>", "</think><|end|>")
    )
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|end|>"}))
    # when its recipe is drafted, then its exits do not end the text, and the guess is named
    draft = draft_recipe(path)
    assert draft.recipe.exit.text == "\n{close}\n\nThe final answer is \\boxed{"
    assert any("what follows the thinking" in line for line in draft.unknown)


def test_a_model_that_does_not_think_by_itself(tmp_path: Path) -> None:
    # given only tokenizer files, without any thinking
    draft = draft_recipe(folder(tmp_path / "plain", [], "{{ messages[-1].content }}"))

    assert draft.recipe.thinking.special is False
    assert draft.recipe.probe.layers == (-1,)
    for words in ("a guess", "what follows the thinking", "depth", "sampling parameters", "context length"):
        assert any(words in line for line in draft.unknown), words
        assert words in draft.as_toml()


def test_a_tokenizer_file_alone_will_do(tmp_path: Path) -> None:
    source = folder(tmp_path / "whole", ["<think>", "</think>"])
    (tmp_path / "alone").mkdir()
    shutil.copy(source / "tokenizer.json", tmp_path / "alone")
    assert draft_recipe(tmp_path / "alone").recipe.thinking.special is True


@pytest.mark.parametrize(
    ("config", "generation", "words"),
    [
        ({"text_config": None, "num_hidden_layers": 28}, {}, None),
        ({"text_config": [], "num_hidden_layers": 28}, {}, None),
        ({"num_hidden_layers": "28"}, {}, "depth is not known"),
        ({"num_hidden_layers": [14, 14]}, {}, "depth is not known"),
        ({"num_hidden_layers": 0}, {}, "depth is not known"),
        ({}, {"do_sample": True, "temperature": None, "top_k": None}, None),
        ({}, {"do_sample": True, "top_k": -1}, None),
        ({}, {"do_sample": True, "temperature": 0.7, "top_p": 0}, "has top_p 0; 1 is taken"),
        ({}, {"do_sample": True, "temperature": "warm"}, "has temperature 'warm'; 1 is taken"),
        ({}, {"do_sample": True, "temperature": math.inf}, "has temperature inf; 1 is taken"),
    ],
)
def test_odd_values_are_passed_over_and_told(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any], words: str | None
) -> None:
    # given a model whose files have values that make no sense, or none
    files = {"config": config | {"model_type": "qwen3"}, "generation_config": generation}
    draft = draft_recipe(folder(tmp_path / "odd", ["<think>", "</think>"], TEMPLATE, **files))
    # when its recipe is drafted, then it is one, and says what was not taken from the files
    assert Recipe.read(draft.content) == draft.recipe
    assert words is None or any(words in line for line in draft.unknown)
    assert draft.recipe.source.depth == (28 if config.get("num_hidden_layers") == 28 else None)


@pytest.mark.parametrize(
    ("begun", "off"),
    [("</think>", True), ("<think>\n\n</think>\n\n", True), ("<think>\n", False), ("", False)],
)
def test_a_template_that_keeps_the_model_from_thinking_is_told(tmp_path: Path, begun: str, off: bool) -> None:
    # given a template that begins the answer in some way, unless it is asked otherwise
    asked = "{% if add_generation_prompt and not enable_thinking %}" + begun + "{% endif %}"
    path = folder(tmp_path / "switch", ["<think>", "</think>"], TEMPLATE + asked)
    # when its recipe is drafted, then it is said where nothing will be thought
    assert any("before the model begins" in line for line in draft_recipe(path).unknown) is off


@pytest.mark.parametrize("form", ["file", "list"])
def test_code_of_the_model_is_not_run_and_its_template_is_read(tmp_path: Path, form: str) -> None:
    # given a tokenizer with a class of its own, and its template in either form that transformers writes
    path = folder(tmp_path / "own", ["<think>", "</think>"], config={"model_type": "unheard-of"})
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    text = TEMPLATE.replace("</think>\n\n", "</think>\n")
    if form == "file":
        (path / "chat_template.jinja").write_text(text)
    else:
        settings["chat_template"] = [{"name": "default", "template": text}]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "own.py").write_text("raise AssertionError('this was run')")
    # when its recipe is drafted, then it is asked nothing, and follows the template
    assert draft_recipe(path).recipe.exit.text == "\n{close}\nThe final answer is \\boxed{"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        draft_recipe(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no tokenizer in"):
        draft_recipe(tmp_path / "empty")
    damaged = folder(tmp_path / "damaged", [])
    (damaged / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json is damaged"):
        draft_recipe(damaged)


def test_settings_that_nothing_is_certified_under_are_named(tmp_path: Path) -> None:
    model = folder(
        tmp_path, [], generation_config={"temperature": 0.7, "repetition_penalty": 1.05, "min_p": 0.0}
    )
    said = [one for one in draft_recipe(model).unknown if "no certificate" in one]
    assert len(said) == 1
    assert "sets repetition_penalty," in said[0]


def test_the_command_drafts_and_checks_the_shipped_model(tmp_path: Path) -> None:
    # given the shipped model, when its recipe is drafted and tried out on three prompts
    out = tmp_path / "recipe.toml"
    line = ["recipe", str(shipped.MODEL), "--check", "--check-tokens", "600", "--out", str(out), "--json"]
    found = json.loads(CliRunner().invoke(app, line).stdout)

    # then it thinks, shows cues, and answers after a forced exit
    assert Recipe.load(out).model_dump(mode="json") == found["recipe"]
    assert found["check"]["problems"] == []
    assert all(one["thinking_tokens"] and one["cues"] for one in found["check"]["prompts"])
    # and a thought that the recipe's budget ends has not ended by itself
    drafted = Recipe.load(out)
    guards = drafted.guards.model_copy(update={"budget": 5})
    limited = check_recipe(shipped.MODEL, drafted.model_copy(update={"guards": guards}), most=600)
    assert [one.closed for one in limited.tried] == [False] * 3
    assert "temperature = 0.9" in CliRunner().invoke(app, ["recipe", str(shipped.MODEL)]).stdout


def test_a_template_that_writes_no_prompt_is_told(tmp_path: Path) -> None:
    # given a template that refuses everything
    path = folder(tmp_path, ["<think>", "</think>"], "{{ raise_exception('only tools') }}")
    # when a recipe is drafted, then it says that nothing can be recorded with it
    told = "no prompt can be written with the chat template: only tools."
    assert told in draft_recipe(path).unknown
