"""What the mock server writes: the shapes of the OpenAI API, as vLLM fills them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lynxstop.testing.tokens import MockVocabulary, Token

Json = dict[str, Any]


@dataclass(slots=True)
class Run:
    """One choice of a request.

    Attributes
    ----------
    index : int
    tokens : list of Token
        All it will say.
    finish : str
        "stop", "length" or "tool_calls".
    made : int
        Tokens produced so far.
    """

    index: int
    tokens: list[Token]
    finish: str
    made: int = 0


@dataclass(slots=True)
class Wire:
    """Writes the answers to one request.

    Attributes
    ----------
    id, model : str
    created : int
        Unix time.
    chat : bool
        Chat completions, or completions.
    reasoning : str
        Field of the thinking, or "raw".
    top : int or None
        Log-probabilities of so many other tokens; None for no log-probabilities.
    ids : bool
        Whether token ids are shown.
    vocabulary : MockVocabulary
    prompt : list of int
    """

    id: str
    model: str
    created: int
    chat: bool
    reasoning: str
    top: int | None
    ids: bool
    vocabulary: MockVocabulary
    prompt: list[int]
    offsets: dict[int, int] = field(default_factory=dict)

    def chunk(self, choices: list[Json], **more: object) -> Json:
        """Write a streamed chunk."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._object(kind, choices, more)

    def first(self, run: Run) -> Json:
        """Write the chunk that names the role."""
        choice = {"index": run.index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
        more = {"prompt_token_ids": self.prompt} if self.ids else {}
        return self.chunk([choice | {"finish_reason": None}], **more)

    def part(self, run: Run, tokens: list[Token]) -> list[Json]:
        """Write the chunks of a few tokens: one for each field that they fill."""
        if not self.chat:
            text = "".join(token.text for token in tokens)
            return [self.chunk([self._choice(run, tokens, {"text": text})])]
        chunks: list[Json] = []
        group: list[Token] = []
        for token in [*tokens, None]:
            if group and (token is None or self._field(token) != self._field(group[0])):
                name = self._field(group[0])
                if name is not None:
                    delta = {name: "".join(one.text for one in group)}
                    chunks.append(self.chunk([self._choice(run, group, {"delta": delta})]))
                group = []
            if token is not None:
                group.append(token)
        return chunks

    def last(self, run: Run) -> Json:
        """Write the chunk that says why a choice ended."""
        said: Json = {"delta": {}} if self.chat else {"text": ""}
        if run.finish == "tool_calls":
            said = {"delta": {"tool_calls": [tool_call()]}}
        choice = {"index": run.index, **said, "logprobs": None, "finish_reason": run.finish}
        return self.chunk([choice | {"stop_reason": None}])

    def usage(self, runs: list[Run]) -> Json:
        """Count the tokens produced."""
        made = [token for run in runs for token in run.tokens[: run.made]]
        reasoning = sum(token.part == "thinking" for token in made)
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": len(made),
            "total_tokens": len(self.prompt) + len(made),
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def whole(self, runs: list[Run]) -> Json:
        """Write the answer to a request that is not streamed."""
        choices = []
        for run in runs:
            said: Json = {"text": "".join(token.text for token in run.tokens)}
            if self.chat:
                message: Json = {"role": "assistant", "content": None}
                for token in run.tokens:
                    name = self._field(token)
                    if name is not None:
                        message[name] = (message.get(name) or "") + token.text
                if run.finish == "tool_calls":
                    message["tool_calls"] = [tool_call()]
                said = {"message": message}
            choices.append(self._choice(run, run.tokens, said) | {"finish_reason": run.finish})
        more: Json = {"usage": self.usage(runs)}
        if self.ids:
            more["prompt_token_ids"] = self.prompt
        return self._object("chat.completion" if self.chat else "text_completion", choices, more)

    def _object(self, kind: str, choices: list[Json], more: Json) -> Json:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def _field(self, token: Token) -> str | None:
        """Name the field of a token; None for delimiters that a reasoning parser takes out."""
        if token.part == "answer" or self.reasoning == "raw":
            return "content"
        return self.reasoning if token.part == "thinking" else None

    def _choice(self, run: Run, tokens: list[Token], said: Json) -> Json:
        choice = {"index": run.index, **said, "logprobs": self._logprobs(run, tokens), "finish_reason": None}
        if self.ids:
            choice["token_ids"] = [self.vocabulary.id(token.text) for token in tokens]
        return choice

    def _logprobs(self, run: Run, tokens: list[Token]) -> Json | None:
        if self.top is None:
            return None
        if self.chat:
            return {"content": [_entry(token, self.top) for token in tokens]}
        offset = self.offsets.get(run.index, 0)
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        self.offsets[run.index] = offset
        return {
            "text_offset": offsets,
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(_top(token, self.top)) for token in tokens],
        }


def tool_call() -> Json:
    """Write the one call that the model makes when it is given tools."""
    return {
        "index": 0,
        "id": "call_mock",
        "type": "function",
        "function": {"name": "check", "arguments": "{}"},
    }


def _top(token: Token, count: int) -> list[tuple[str, float]]:
    both = [(token.text, token.logprob), *token.rivals]
    return sorted(both, key=lambda pair: -pair[1])[:count]


def _entry(token: Token, count: int) -> Json:
    return _named(token.text, token.logprob) | {
        "top_logprobs": [_named(*pair) for pair in _top(token, count)]
    }


def _named(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
