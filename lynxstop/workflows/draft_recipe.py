"""From a model's folder to a recipe: what its files say, and in plain words what they do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.setup import setup_from_recipe
from lynxstop.artifacts.tokenizer import load_tokenizer
from lynxstop.core.conditions import Conditions
from lynxstop.core.families import ROWS
from lynxstop.core.surface import added_tokens
from lynxstop.core.thinking import FAMILIES, Delimiters, detect_delimiters, marks_of
from lynxstop.errors import ConfigError, ModelError
from lynxstop.extras import need

ANSWER = "The final answer is \\boxed{"
"""Opens the answer that an exit asks for."""

LYNX_LAYERS = {28: (9, 16), 32: (8, 16, 24), 36: (12, 18, 24), 64: (16, 32, 48)}
"""Layers by depth, as in the code of LYNX (arXiv 2512.05325); the last one is read as well."""

MOST_TOKENS, PLENTY = 32768, 10**9
_THOUGHT, _SAID = "qzthoughtqz", "qzanswerqz"


@dataclass(frozen=True, slots=True)
class Draft:
    """A recipe, and what it rests on.

    Parameters
    ----------
    content : dict
        Of the recipe, as in TOML.
    known : list of str
        What was read, and from where.
    unknown : list of str
        What the files do not say; someone who knows the model should look at it.
    """

    content: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """The recipe itself."""
        return Recipe.read(self.content, "The drafted recipe")

    def as_toml(self) -> str:
        """Return the recipe's file, with what is known and unknown as comments."""
        lines = [f"# {line}" for line in self.known] + [f"# Look at this: {line}" for line in self.unknown]
        return "\n".join(lines) + "\n\n" + toml(self.content)


def toml(content: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the sections of a recipe; what is None is left out."""
    return "\n".join(
        f"[{section}]\n"
        + "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)
        for section, values in content.items()
    )


def draft_recipe(folder: Path) -> Draft:
    """Draft a recipe for the model in a folder, which may hold tokenizer files alone.

    Raises
    ------
    ModelError
        When there is no tokenizer in the folder, or its configuration is damaged.
    TokenizerError
        When the tokenizer cannot write the cues, the delimiters or the exit text.
    """
    tokenizer = tokenizer_of(folder)
    config, generation = _json(folder / "config.json"), _json(folder / "generation_config.json")
    inner = config.get("text_config")
    config = {**config, **(inner if isinstance(inner, dict) else {})}
    draft = Draft()
    depth = config.get("num_hidden_layers")
    depth = depth if isinstance(depth, int) and depth > 0 else None
    source: dict[str, Any] = {"models": [folder.resolve().name]}
    if depth is not None:
        source["depth"] = depth
    draft.content["source"] = source
    delimiters = _thinking(draft, tokenizer)
    draft.content["cues"] = {"words": ["wait", "hmm", "alternatively"]}
    draft.unknown.append(
        "the cue words are those of LYNX; `lynxstop cues` finds the model's own in recorded traces."
    )
    _exit(draft, tokenizer, delimiters)
    _switch(draft, tokenizer, delimiters)
    _layers(draft, depth)
    _sampling(draft, generation, config, tokenizer)
    setup_from_recipe(draft.recipe, tokenizer)
    source["note"] = "Drafted by lynxstop from the files of the model."
    source["checked"] = True
    draft.known.append("Cues, delimiters and exit text were compiled with this tokenizer.")
    return draft


def draft_for_server(model: str, length: int | None) -> Draft:
    """Draft a recipe for a model that only a server has; `length` is its context in tokens, if known."""
    draft = Draft()
    draft.content["source"] = {"models": [model], "note": "Drafted by lynxstop for a server."}
    delimiters = FAMILIES["think"]
    draft.content["thinking"] = {"open": list(delimiters.open), "close": list(delimiters.close)}
    draft.unknown.append("<think> and </think> are a guess: the server does not say how thinking is marked.")
    draft.content["exit"] = {"text": "\n{close}\n\n" + ANSWER}
    draft.content["probe"] = {"layers": []}
    _sampling(draft, {}, {"max_position_embeddings": length}, None)
    if length is not None:
        draft.known.append(f"Lengths for the context of {length:,} tokens that the server names.")
    return draft


def tokenizer_of(folder: Path) -> Any:
    """Load the tokenizer of a folder.

    Raises
    ------
    ModelError
        When there is none, or it cannot be read.
    """
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {folder}.",
            hint="Download the model, or its tokenizer files, to a folder.",
        )
    transformers = need("transformers", "transformers")
    try:
        # Code in the folder is neither run nor asked about.
        return load_tokenizer(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises almost anything for files that it cannot read
        if (folder / "tokenizer.json").is_file():
            return _bare_tokenizer(folder, transformers)
        raise ModelError(
            f"There is no tokenizer in {folder} that transformers can load: {_first_line(error)}.",
            hint="The folder needs the model's tokenizer files, such as tokenizer.json.",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".: ")


def _bare_tokenizer(folder: Path, transformers: Any) -> Any:
    try:
        made = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    except Exception as error:  # of the Rust library, without a class of its own
        raise ModelError(
            f"{folder / 'tokenizer.json'} is damaged: {_first_line(error)}.", hint="Download it again."
        ) from error
    made.chat_template = _template(folder)
    return made


def _template(folder: Path) -> Any:
    """Return a folder's chat template as transformers has it: a text, or texts by name."""
    with suppress(OSError):
        return (folder / "chat_template.jinja").read_text()
    found = _json(folder / "tokenizer_config.json").get("chat_template")
    return {one["name"]: one["template"] for one in found} if isinstance(found, list) else found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}.", hint="Download it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it holds no object.", hint="Download it again.")
    return content


def _thinking(draft: Draft, tokenizer: Any) -> Delimiters:
    try:
        found = detect_delimiters(tokenizer)
        draft.known.append(
            f"Delimiters {found.open[0]} and {found.close[0]} from the tokenizer or its template."
        )
    except ModelError:
        found = FAMILIES["think"]
        draft.unknown.append(
            "neither tokenizer nor chat template shows a thinking block. <think> and </think> are a guess: "
            "the model has to write them, for instance because the prompt asks for it."
        )
    single = set(added_tokens(tokenizer).values())
    special = all(mark in single for text in (*found.open, *found.close) for mark in marks_of(text))
    draft.content["thinking"] = {"open": list(found.open), "close": list(found.close), "special": special}
    return found


def _exit(draft: Draft, tokenizer: Any, delimiters: Delimiters) -> None:
    close = delimiters.close[0]
    between = _between(tokenizer, close)
    if between is not None:
        text = between.replace(close, "{close}", 1)
        draft.known.append("What follows the thinking is as the chat template writes it.")
    else:
        row = next((row for row in ROWS if row.close == delimiters.close), None)
        text = "{close}" + row.answer if row is not None and row.answer else "\n{close}\n\n"
        draft.unknown.append(
            "the chat template does not show what follows the thinking. The exit text assumes what is usual "
            "for these delimiters: compare it with an answer of the model."
        )
    draft.content["exit"] = {"text": text + ANSWER}
    draft.unknown.append(
        "the exit asks for a boxed answer, as for maths and multiple choice; change it for other answers."
    )


def _between(tokenizer: Any, close: str) -> str | None:
    """Return what the chat template writes between a thought and the answer after it."""
    turn = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHT)
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SAID, **turn}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # templates raise what they like, and there may be none
        return None
    between, said, _ = text.partition(_THOUGHT)[2].partition(_SAID)
    # A token that ends the text there is one that a server writes between two requests.
    ended = (end := getattr(tokenizer, "eos_token", None)) is not None and end in between
    return between if said and close in between and not ended else None


def _switch(draft: Draft, tokenizer: Any, delimiters: Delimiters) -> None:
    """Say so where the chat template fails, or, as it is by default, keeps the model from thinking."""
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": _SAID}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates raise what they like, and there may be none
        draft.unknown.append(f"no prompt can be written with the chat template: {_first_line(error)}.")
        return
    begun = text.rpartition(_SAID)[2]
    if max(map(begun.rfind, delimiters.close)) > max(map(begun.rfind, delimiters.open)):
        draft.unknown.append(
            "by default the chat template closes the thinking before the model begins, and a variable such "
            "as enable_thinking opens it. Prompts are written with its defaults: change them in the template."
        )


def _layers(draft: Draft, depth: int | None) -> None:
    if depth is None:
        draft.content["probe"] = {"layers": [-1]}
        draft.unknown.append(
            "without config.json the depth is not known, so only the last layer is read. With it, layers in "
            "between are added, as in LYNX."
        )
        return
    quarters = sorted({depth * part // 4 for part in (1, 2, 3)} - {0, depth})
    inner = list(LYNX_LAYERS.get(depth, quarters))
    draft.content["probe"] = {"layers": [*inner, -1]}
    as_in = "as in the code of LYNX" if depth in LYNX_LAYERS else "at a quarter, half and three quarters"
    draft.known.append(f"Layers of {depth} {as_in}, and the last.")


def _sampling(draft: Draft, generation: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Any) -> None:
    if generation.get("do_sample") is False:
        sampling: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
    elif "temperature" in generation or generation.get("do_sample"):
        # What generation_config.json leaves out is as transformers has it.
        usual = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
        sampling = {name: _sampled(draft, name, generation.get(name), usual[name]) for name in usual}
    else:
        sampling = {"temperature": 0.6, "top_p": 0.95, "top_k": 0}
        draft.unknown.append(
            "nothing names the sampling parameters. Temperature 0.6 and top_p 0.95 are usual "
            "for reasoning models: use what the model's card recommends, and serve with the same."
        )
    if "do_sample" in generation or "temperature" in generation:
        draft.known.append("Sampling as in generation_config.json.")
    if altered := Conditions.read(generation).altered:
        draft.unknown.append(
            f"generation_config.json sets {', '.join(altered)}, which no certificate is made under: "
            "it is left out here, and has to be when the model is served (`lynxstop serve` does that)."
        )
    limits = [config.get("max_position_embeddings"), getattr(tokenizer, "model_max_length", None)]
    context = min((limit for limit in limits if isinstance(limit, int) and 0 < limit < PLENTY), default=None)
    if context is None:
        draft.unknown.append(f"the context length is not known; {MOST_TOKENS} output tokens are usual.")
    most = MOST_TOKENS if context is None else max(1, min(MOST_TOKENS, context * 3 // 4))
    draft.content["sampling"] = {**sampling, "max_tokens": most, "answer_tokens": min(128, max(1, most // 8))}


def _sampled(draft: Draft, name: str, given: Any, usual: float) -> Any:
    """Return a sampling parameter of generation_config.json, or the usual one where that makes no sense."""
    if given is None:
        return usual
    given = 0 if (name, given) == ("top_k", -1) else given  # as vLLM says that all tokens are kept
    try:
        Recipe.read({"sampling": {name: given}})
    except ConfigError:
        draft.unknown.append(f"generation_config.json has {name} {given!r}; {usual:g} is taken in its place.")
        return usual
    return given


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
