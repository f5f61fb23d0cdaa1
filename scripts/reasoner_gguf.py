"""Write the shipped model as a GGUF file for llama.cpp: python scripts/reasoner_gguf.py reasoner.gguf."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "reasoner"
# llama.cpp knows a fixed list of regular expressions that divide text before BPE, and ours is not among them.
# Under this name it divides at newlines only. The tokens are the same, because no merge of this vocabulary
# crosses a border of ours; spaces are spelled as U+2581 and bytes beyond ASCII as <0x80> to <0xFF>.
PRETOKENIZER = "sarvam-moe"
SPACE = "\u2581"


def convert(model: Path, target: Path) -> None:
    """Write the model in folder `model` (Qwen3, byte-level BPE) to `target`, weights as float32.

    The tokens are those of `tokenizer.json`, but for a literal U+2581, which llama.cpp takes for a space.
    """
    config = json.loads((model / "config.json").read_text())
    part = target.with_name(f"{target.name}.part")
    writer = gguf.GGUFWriter(part, "qwen3")
    _write_shape(writer, config)
    _write_tokenizer(writer, model, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for name, tensor in load_file(model / "model.safetensors").items():
        known = names.get_name(name, try_suffixes=(".weight",))
        if known is None:
            raise ValueError(f"GGUF has no name for the tensor {name}.")
        writer.add_tensor(known, tensor.to(torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, target)


def _write_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("lynxstop reasoner")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])


def _write_tokenizer(writer: gguf.GGUFWriter, model: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    texts = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    spelled = [_spell(texts[number]) for number in range(len(texts))]
    kinds = [gguf.TokenType.BYTE if text.startswith("<0x") else gguf.TokenType.NORMAL for text in spelled]
    for token in sorted(tokenizer["added_tokens"], key=lambda token: token["id"]):
        if token["id"] != len(spelled):
            raise ValueError(f"Added token {token['content']} does not come after the vocabulary.")
        spelled.append(token["content"])
        kinds.append(gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED)
    if len(spelled) != config["vocab_size"]:
        raise ValueError(f"The tokenizer has {len(spelled)} tokens, the model {config['vocab_size']}.")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRETOKENIZER)
    writer.add_token_list(spelled)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [f"{_spell(left)} {_spell(right)}" for left, right in tokenizer["model"]["merges"]]
    )
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    # The model has no such token; unset, llama.cpp takes number 11 for it.
    writer.add_bos_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((model / "chat_template.jinja").read_text())


def _byte_letters() -> dict[str, int]:
    """Return the letter of each byte in byte-level BPE (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


LETTERS = _byte_letters()


def _spell(text: str) -> str:
    """Respell a token of byte-level BPE as text, U+2581 for spaces; <0x00> for a byte that is no text."""
    data = bytes(LETTERS[letter] for letter in text)
    if all(byte == 10 or 32 <= byte < 127 for byte in data):
        return data.decode().replace(" ", SPACE)
    if len(data) > 1:
        raise ValueError(f"Token {text!r} has several bytes beyond ASCII; llama.cpp cannot spell it.")
    return f"<0x{data[0]:02X}>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--model", type=Path, default=SHIPPED, help="model folder; the shipped one by default"
    )
    arguments = parser.parse_args()
    convert(arguments.model, arguments.target)


if __name__ == "__main__":
    main()
