"""A small tokenizer in the files of mistral-common."""

from __future__ import annotations

import base64
import json
from pathlib import Path

SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]",
    "[/THINK]",
)  # fmt: skip
_PIECES = [*(bytes([byte]) for byte in range(256)), b"ai", b"ait", b" h", b"mm"]


def write_tekken(folder: Path) -> Path:
    """Write a model folder with mistral-common's tokenizer alone, and a configuration."""
    folder.mkdir()
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
        for rank, piece in enumerate(_PIECES)
    ]
    size = len(_PIECES) + len(SPECIAL)
    settings = {
        "pattern": r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+", "num_vocab_tokens": len(_PIECES),
        "default_vocab_size": size, "default_num_special_tokens": len(SPECIAL), "version": "v13",
    }  # fmt: skip
    special = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(SPECIAL)]
    content = {"config": settings, "vocab": vocabulary, "special_tokens": special}
    (folder / "tekken.json").write_text(json.dumps(content))
    config = {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": size,
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "head_dim": 32, "intermediate_size": 64, "max_position_embeddings": 512,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
