"""What a collection needs of an engine: any object with these attributes will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.artifacts.setup import WatchedSetup
from lynxstop.core.policy import StopPolicy
from lynxstop.core.types import Answer, Generation, Request, Sampling


class RecordingEngine(Protocol):
    """An engine that records traces and answers of forced exits."""

    id: ClassVar[str]
    """Names the engine in recordings and bundles."""
    policy: StopPolicy
    layers: tuple[int, ...]
    """Hidden states that it records; may be none."""
    width: int

    @property
    def exits_at_once(self) -> int | None:
        """Exits to force in one call, for the engine to be well used; None where that is done as soon as a
        trace is finished, because only the process that generated it can."""
        ...

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        record: bool = False,
    ) -> Iterator[Generation]:
        """Generate all requests, in any order."""
        ...

    def force_exits(
        self,
        generations: Sequence[Generation],
        sampling: Sampling,
        cuts: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Answer]]:
        """Answers of exits forced after the tokens `cuts` of recorded traces."""
        ...


class Source(Protocol):
    """A loaded model, as `lynxstop.engines.transformers.loading.LoadedModel` is one."""

    @property
    def engine(self) -> RecordingEngine:
        """Generates."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Encodes prompts and decodes outputs."""
        ...

    @property
    def setup(self) -> WatchedSetup:
        """What is watched."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """Which model it is."""
        ...

    @property
    def dtype(self) -> str:
        """Data type of the model."""
        ...

    def close(self) -> None:
        """End it: what it started is stopped."""
        ...
