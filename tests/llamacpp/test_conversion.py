"""The converted model is the shipped one: the same tokens in, the same tokens out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DATA = Path(__file__).parents[2] / "data"
PROBLEMS = [
    json.loads(line)["prompt"] for line in (DATA / "problems" / "test.jsonl").read_text().splitlines()
]
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n"
AWKWARD = (
    "a. 7 * 7 = 5 ok.\n\nWait let me.\n\n\nHmm   (x).\n</think>\n\nThe answer is \\boxed{10}.<|im_end|>\n",
    "naïve 日本語 🦊 \t tab\r\n 100 12345 Don't \n \n",
    "\x00\x01\x7f <think></think>",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(DATA / "reasoner")


def test_texts_have_the_same_tokens(llama_server: str, tokenizer: Any) -> None:
    with httpx.Client(base_url=llama_server) as client:
        for text in (*(TURN.format(problem) for problem in PROBLEMS[:100]), *AWKWARD):
            body = {"content": text, "add_special": False, "parse_special": True}
            ids = client.post("/tokenize", json=body).json()["tokens"]
            assert ids == tokenizer.encode(text, add_special_tokens=False), text
            assert client.post("/detokenize", json={"tokens": ids}).json()["content"] == text


def test_the_template_is_the_shipped_one(llama_server: str, tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "Solve x"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nIt is 2."},
        {"role": "user", "content": "Solve y"},
    ]
    made = httpx.post(f"{llama_server}/apply-template", json={"messages": messages}).json()["prompt"]

    assert made == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_greedy_answers_are_the_same(llama_server: str, tokenizer: Any) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(DATA / "reasoner", dtype=torch.float32)
    greedy = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None, "max_new_tokens": 900}
    for problem in PROBLEMS[:5]:
        prompt = tokenizer.encode(TURN.format(problem), add_special_tokens=False)
        ids = network.generate(torch.tensor([prompt]), **greedy)[0, len(prompt) :].tolist()
        body = {"prompt": prompt, "temperature": 0, "n_predict": 900, "return_tokens": True}
        made = httpx.post(f"{llama_server}/completion", json=body, timeout=120).json()
        assert made["tokens"] == ids
        assert made["stop_type"] == "eos"
