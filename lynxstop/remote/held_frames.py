"""Events that the client does not get yet, since an exit might still remove a part of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from lynxstop.remote.delta import Delta
from lynxstop.remote.event_rewriter import EventRewriter
from lynxstop.remote.events import ClientEvent
from lynxstop.remote.session import TruncationPoint
from lynxstop.remote.tokens import StreamToken, written


class Frame(NamedTuple):
    """An event and its tokens."""

    event: ClientEvent
    first: int
    """Index of its first token, among all that the session has read."""
    end: int
    """Index after its last token."""


class HeldFrames:
    """The held events, the oldest first.

    Parameters
    ----------
    rewriter : EventRewriter
        Writes them as the client gets them.
    """

    def __init__(self, rewriter: EventRewriter) -> None:
        self._rewriter = rewriter
        self._frames: deque[Frame] = deque()

    def __bool__(self) -> bool:
        return bool(self._frames)

    def append(self, frame: Frame) -> None:
        """Hold one more."""
        self._frames.append(frame)

    def release(self, held: int | None = None) -> list[ClientEvent]:
        """Release the events before the first token that an exit might still remove; by default all."""
        shown = []
        while self._frames and (held is None or self._frames[0].end <= held):
            if event := self._rewriter.shown(self._frames.popleft().event):
                shown.append(event)
        return shown

    def before(
        self, truncation: TruncationPoint, last: Frame, tokens: Sequence[StreamToken]
    ) -> list[ClientEvent]:
        """Release what stays before a truncation, and drop the rest; `last` is the event after the held."""
        shown = []
        for frame in (*self._frames, last):
            if frame.end <= truncation.index:
                event = self._rewriter.shown(frame.event)
            else:
                whole = written(tokens[frame.first : truncation.index])
                text = b"".join(token.text for token in whole)
                if truncation.kept and frame.first <= truncation.index:
                    tail = tokens[truncation.index].text[: truncation.kept]
                    whole, text = [*whole, StreamToken(tail, 0.0)], text + tail
                said = text.decode(errors="replace")
                own = self._rewriter.said(said, thinking=True, delta=Delta(tokens=whole))
                event = self._rewriter.in_order(own) if said else None
            if event:
                shown.append(event)
        self._frames.clear()
        return shown
