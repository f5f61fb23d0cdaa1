"""SGLang's server: the last message is appended to the rendered prompt unchanged, and continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import AnswerLimits, Call, Dialect, Kept, Opening, ServerFacts, resumed
from lynxstop.remote.dialects.chat import ChatDialect
from lynxstop.remote.dialects.reading import read_as_answer
from lynxstop.remote.server import Server


class SGLang(ChatDialect):
    """Written from SGLang's source of mid 2026, and not tested against the server.

    With `continue_final_message` the server renders all messages except the last, and appends the text of the
    last: nothing is stripped, and a thinking block that the template opens is open. Every token comes with
    log-probabilities, also delimiters that the parser removes; the tokens are all text after the prompt.

    Parameters
    ----------
    lead : str
        "{open}" where the delimiter that opens thinking is missing in both the prompt and the stream, as in
        versions that give no log-probabilities of what they parse.
    """

    name = "sglang"
    facts = ServerFacts(
        owner="sglang",
        sign=("/get_server_info", "version"),
        version=("/get_server_info", "version"),
        counters=("sglang:num_running_reqs", "sglang:generation_tokens_total"),
    )
    describes = "continue_final_message"
    neutral: Mapping[str, Any] = MappingProxyType({"top_k": -1, "min_p": 0.0})

    def __init__(self, lead: str = "") -> None:
        self.lead = lead

    async def routes(self, server: Server, model: str) -> Sequence[Dialect]:
        """Continue the last message, with the delimiter that opens thinking where it is not shown."""
        return (self, SGLang("{open}"))

    def watched(self, body: Mapping[str, Any]) -> Json:
        """Ask for log-probabilities and usage, and for thinking as it comes."""
        return {**super().watched(body), "stream_reasoning": True}

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Continue the last message; what comes is the answer, whatever a parser would take it for."""
        body = resumed(opening.body, kept, limits, lead=self.lead)
        return Call("/v1/chat/completions", {**body, "separate_reasoning": False})

    def read_continuation(self, event: Json) -> Delta:
        """Read one event of a chat stream."""
        return read_as_answer(event)

    async def tokenize(self, server: Server, model: str, text: str) -> tuple[int, ...]:
        """Ask the server's tokenizer."""
        asked = {"model": model, "prompt": text, "add_special_tokens": False}
        found = await server.call("/v1/tokenize", asked)
        return tuple(found["tokens"]) if isinstance(found, dict) and "tokens" in found else ()
