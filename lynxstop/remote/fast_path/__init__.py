"""The fast path: events that cannot trigger a decision are forwarded without parsing them.

Parsing the 20 alternatives of a token dominates the cost of an event, and most events show no cue. So an
event is parsed once, and those that differ only in their text are recognised by comparing bytes
(`EventTemplate`). Their log-probabilities stay as the server wrote them (`RawLogprobs`), and the rule parses
them in batches (`BatchedRule`). An event that differs in any other byte takes the slow path. Both paths take
the same decisions and write the same events.
"""

from lynxstop.remote.fast_path.batched_rule import BATCH, BatchedRule
from lynxstop.remote.fast_path.event_template import EventTemplate, MatchedEvent
from lynxstop.remote.fast_path.raw_logprobs import RawLogprobs, parse_json, parse_without_logprobs

__all__ = [
    "BATCH",
    "BatchedRule",
    "EventTemplate",
    "MatchedEvent",
    "RawLogprobs",
    "parse_json",
    "parse_without_logprobs",
]
