"""Columns of a recorded data set, and the record of how it was made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any, NamedTuple

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.artifacts.migrations import ENGINE_IDS, META
from lynxstop.artifacts.provenance import Provenance
from lynxstop.artifacts.strict import Strict
from lynxstop.core.points import CUE
from lynxstop.core.policy import GUARDS, ExitSide
from lynxstop.core.types import Signals

SCHEMA_VERSION = len(META) + 1

TRACES = {
    "trace_id": "string",
    "problem_id": "string",
    "sample": "int64",
    "family": "string",
    "difficulty": "string",
    "split": "string",
    "metadata": "string",
    "seed": "int64",
    "prompt_tokens": "int64",
    "thinking_tokens": "int64",
    "answer_tokens": "int64",
    "finish": "string",
    "exit_reason": "string",
    "text": "string",
    "full_answer": "string",
    "full_status": "string",
    "gold": "string",
    "full_right": "bool",
    "events": "int64",
    "cues": "int64",
    "prompt_sha256": "string",
}
"""Column types of the trace table.

`metadata` is JSON of the problem's further columns; `events` counts the decision points of the trace that the
guards let exit, `cues` those with a row in the cue table; `thinking_tokens` and `answer_tokens` add up to the
whole output, forced tokens included; `prompt_sha256` is `lynxstop.recordings.prompts.prompt_digest`.
"""

LATER = frozenset({"prompt_sha256"})
"""Columns that the first recordings lack: null there."""

CUES = {
    "trace_id": "string",
    "cue": "int64",
    "kind": "int64",
    "index": "int64",
    "seen_at": "int64",
    "position": "int64",
    "thinking_at_exit": "int64",
    "word": "string",
    **{field.name: "double" for field in fields(Signals)},
    "trial_text": "string",
    "trial_answer": "string",
    "trial_status": "string",
    "trial_tokens": "int64",
    "trial_confidence": "double",
    "trial_mean_prob": "double",
    "trial_min_prob": "double",
    "trial_first_entropy": "double",
    "right": "bool",
    "agrees": "bool",
}
"""Column types of the cue table: one row per decision point, whose `kind` are bits of `lynxstop.core.points`.

`trial_confidence` is the geometric mean probability, `trial_first_entropy` that of the first answer token.
"""

_LATER: dict[str, Any] = {"cut": "behind", "grader": "math", **GUARDS}
"""Settings that the first recordings did not have, and the value they stand for there."""
_KEYED_AS: dict[str, dict[str, str]] = {
    "engine": {engine: name for name, engine in ENGINE_IDS.items()},
    "cut": {"after": "behind"},
}
"""How values entered the keys of the first recordings; shards carry these keys, so they never change."""
_ABSENT = object()


class Instalment(NamedTuple):
    """What was recorded at one go: the first collection, or one append."""

    shards: range
    """Numbers of its shards."""
    key: str
    """Written into each of them: shards of different settings never mix."""
    traces: int


class Appended(Strict):
    """What one append asked for, and what it came to."""

    problems: int
    """Problems with traces in this append."""
    problems_sha256: str
    samples: int
    """Traces of each of its problems, earlier ones included."""
    traces: int
    """Traces of this append."""
    provenance: Provenance

    def identity(self) -> dict[str, Any]:
        """All that shapes the data, without provenance."""
        return self.model_dump(mode="json", exclude={"provenance"})


class Meta(Strict):
    """Content of meta.json: all that shapes the data, where it came from, and the digests of its files."""

    schema_version: int = SCHEMA_VERSION
    fingerprint: Fingerprint
    engine: str
    dtype: str
    cue_words: tuple[str, ...]
    cue_paragraph: bool
    think_open: tuple[str, ...]
    think_close: tuple[str, ...]
    exit_text: str
    exit_ids: tuple[int, ...]
    cut: ExitSide = "after"
    """Where a forced exit cuts the text."""
    layers: tuple[int, ...]
    """Recorded hidden states; none when an engine shows none."""
    hidden: int
    """Width of one hidden state; 0 without any."""
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    answer_tokens: int
    seed: int
    grader: str = "math"
    """How answers were compared: a name, or that of a function. It is a note, and never imported."""
    points: int = CUE
    """Kinds of recorded decision points, bits of `lynxstop.core.points`."""
    every: int = 0
    """Thinking tokens between decision points of the kind `INTERVAL`."""
    min_tokens: int = 0
    cooldown: int = 0
    stride: int = 1
    max_points: int | None = None
    """Guards under which decision points were chosen: exits were forced only where these let one happen."""
    budget: int | None
    """Thinking tokens after which a full trace is made to answer."""
    samples: int
    max_cues: int | None
    shard_size: int
    problems: int
    problems_sha256: str
    provenance: Provenance
    digests: dict[str, str] | None = None
    """SHA-256 of the files of every finished instalment; None while the first is unfinished."""
    appended: tuple[Appended, ...] = ()
    """What was added to the first collection; `problems` and `samples` count that one alone."""

    @property
    def instalments(self) -> list[Instalment]:
        """The first collection and its appends, in order."""
        parts: list[Instalment] = []
        key = _digest(self.identity())
        for appended in (None, *self.appended):
            if appended is not None:
                key = _digest([key, appended.identity()])
            first = parts[-1].shards.stop if parts else 0
            traces = self.problems * self.samples if appended is None else appended.traces
            parts.append(Instalment(range(first, first - (-traces // self.shard_size)), key, traces))
        return parts

    @property
    def traces(self) -> int:
        """Number of traces when finished."""
        return sum(part.traces for part in self.instalments)

    @property
    def shards(self) -> int:
        """Number of shards when finished."""
        return self.instalments[-1].shards.stop

    @property
    def finished(self) -> bool:
        """Whether every shard is there and its digests are known."""
        return self.digests is not None and len(self.digests) == 4 * self.shards

    @property
    def width(self) -> int:
        """Features per cue."""
        return len(self.layers) * self.hidden

    def identity(self) -> dict[str, Any]:
        """All that shapes the first collection, without provenance and digests.

        A setting that came later counts only where it is not what it was before there was a choice: data keep
        their identity when lynxstop is upgraded.
        """
        settings = self.model_dump(mode="json", exclude={"provenance", "digests", "appended"})
        settings["schema_version"] = 1
        for name, spelling in _KEYED_AS.items():
            settings[name] = spelling.get(settings[name], settings[name])
        return {name: value for name, value in settings.items() if _LATER.get(name, _ABSENT) != value}

    @property
    def key(self) -> str:
        """Digest of all that shapes the data, appends included."""
        return self.instalments[-1].key

    def differences(self, other: Meta) -> list[str]:
        """Names of the settings in which two recordings differ."""
        mine, others = self.identity(), other.identity()
        return [name for name in mine | others if mine.get(name) != others.get(name)]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
