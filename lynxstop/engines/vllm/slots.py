"""The table of slots: everything the host knows of the requests of the running batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.engines.vllm.request_options import UNWATCHED, RequestOptions
from lynxstop.engines.vllm.session_batch import SessionBatch
from lynxstop.engines.vllm.text_ends import TextEnds


class Parked(NamedTuple):
    """A request that left the batch unfinished: its options, the state of its session, and how many
    generated tokens that has read."""

    options: RequestOptions
    state: Any
    read: int


class SlotTable:
    """One row per slot of the batch; the last one, `idle`, is shared by all requests that are not watched.

    A slot is *filling* until the first step at which its row is sampled for good; a *new* request does not
    read a token in that step, since it is the prompt's last.

    Parameters
    ----------
    sessions : SessionBatch
    count : int
        Slots of the batch.
    drafted : bool
        Whether tokens are drafted. How many of them a request has read is then known to the sessions only.

    Attributes
    ----------
    options : list of RequestOptions
        By slot.
    entered, left : list of callables
        Called with the slot of a request that comes, and its options; and of one that goes.
    ends : TextEnds
        Where the texts of the requests end.
    watched, recorded, drawn : bool arrays of shape (slots,)
        Which requests are watched, recorded, and have random numbers of their own.
    drawing : bool
        Whether any has.
    """

    def __init__(self, sessions: SessionBatch, count: int, *, drafted: bool = False) -> None:
        self.sessions = sessions
        self.ends = TextEnds(count + 1)
        self.entered: list[Callable[[int, RequestOptions], None]] = [self.ends.enter]
        self.left: list[Callable[[int], None]] = []
        self._drafted = drafted
        self.idle = count
        self.options = [UNWATCHED] * (count + 1)
        self.watched = np.zeros(count + 1, dtype=np.bool_)
        self.recorded = np.zeros(count + 1, dtype=np.bool_)
        self.drawn = np.zeros(count + 1, dtype=np.bool_)
        self.drawing = False
        self.filling = np.zeros(count + 1, dtype=np.bool_)
        self._arrivals = False
        self._unnamed = 0
        self._new = np.zeros(count + 1, dtype=np.bool_)
        self._read = np.zeros(count + 1, dtype=np.int64)

    def enter(
        self, slot: int, prompt_ids: list[int], outputs: int, options: RequestOptions, parked: Parked | None
    ) -> bool:
        """Give a slot to a request; False when its state is lost, and it is left alone.

        `outputs` counts the tokens generated before; all but the last of them have been read.
        """
        found = outputs == 0 or (parked is not None and (self._drafted or parked.read == outputs - 1))
        if not found:
            options = UNWATCHED
        if outputs == 0 or parked is None or not found:
            if options.record == "":
                self._unnamed += 1
                options = replace(options, record=f"request-{self._unnamed}")
            self.sessions.admit(slot, prompt_ids, options)
        else:
            options = parked.options
            self.sessions.resume(slot, parked.state)
        for notice in self.entered:
            notice(slot, options)
        self.options[slot] = options
        self.watched[slot] = options.watched
        self.recorded[slot] = options.record is not None
        self.drawn[slot] = options.draw is not None
        self.drawing = bool(self.drawn.any())
        self.filling[slot] = self._arrivals = True
        self._new[slot] = outputs == 0
        self._read[slot] = outputs - 1
        return found

    def leave(self, slot: int, outputs: int) -> Parked | None:
        """Free a slot; return what a later `enter` of the same request needs, None if there is nothing
        yet."""
        watched = self.watched[slot]
        self.watched[slot] = False
        for forget in self.left:
            forget(slot)
        if not watched or self._new[slot]:
            self.filling[slot] = False
            return None
        read = int(self._read[slot]) if self.filling[slot] else outputs - 1
        self.filling[slot] = False
        return Parked(self.options[slot], self.sessions.park(slot), read)

    def reading(self, slots: NDArray[np.int64], partial: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """Say which rows read a generated token in this step: shape (rows,), None when all do.

        `partial` marks rows whose prompt, or history after preemption, is not complete yet; it may be longer.
        """
        if not self._arrivals:
            return None
        partial = partial[: len(slots)]
        read = ~(partial | self._new[slots])
        done = slots[~partial]
        self.filling[done] = False
        self._arrivals = bool(self.filling.any())
        self._new[done] = False
        return read


class BatchRows:
    """Rows of the V1 runner's persistent batch.

    Parameters
    ----------
    slots : SlotTable
    options : callable
        Gives the options of a request from its sampling parameters, whether it is new, the length of its
        prompt, and its adapter.
    lost : callable
        Called for each request that came back without its state, or that the runner does not have.
    known : dict
        The runner's own requests by name, those that are preempted too.
    """

    def __init__(
        self,
        slots: SlotTable,
        options: Callable[[Any, bool, int, Any], RequestOptions],
        lost: Callable[[], None],
        known: dict[str, Any],
    ) -> None:
        self._slots = slots
        self._options = options
        self._lost = lost
        self._known = known
        self._parked: dict[str, Parked] = {}
        self._free = list(range(slots.idle))[::-1]
        self._of_row = np.full(slots.idle, slots.idle, dtype=np.int64)
        self._requests: dict[int, tuple[str, list[int]]] = {}
        self._view: NDArray[np.int64] | None = None

    @property
    def any_watched(self) -> bool:
        """Whether some row is watched."""
        return bool(self._requests)

    def of(self, rows: int) -> NDArray[np.int64]:
        """Slots of the first `rows` rows: the same array as long as nothing changes."""
        if self._view is None or len(self._view) != rows:
            self._view = self._of_row[:rows].copy()
        return self._view

    def indices(self, slots: NDArray[np.int64]) -> list[int]:
        """Index, among the generated tokens of each request, of the token it is fed in this step."""
        return [len(self._requests[slot][1]) - 1 for slot in slots.tolist()]

    def update(self, change: Any) -> None:
        """Follow a `BatchUpdate`: removed, added, then moved rows."""
        self._view = None
        for name in [name for name in self._parked if name not in self._known]:
            del self._parked[name]
        # A row that is filled again at once is only among those added, maybe by a request that is in another.
        for row in (*change.removed, *(row for row, *_ in change.added)):
            self._leave(row)
        for row, params, prompt_ids, output_ids in change.added:
            self._enter(row, params, prompt_ids or [], output_ids)
        for one, other, direction in change.moved:
            if direction.name == "SWAP":
                self._of_row[[one, other]] = self._of_row[[other, one]]
            else:
                self._leave(other)
                self._of_row[other], self._of_row[one] = self._of_row[one], self._slots.idle

    def _enter(self, row: int, params: Any, prompt_ids: list[int], output_ids: list[int]) -> None:
        if (found := self._find(output_ids)) is None:
            self._lost()
            return
        name, request = found
        options = self._options(params, not output_ids, request.num_prompt_tokens, request.lora_request)
        if not options.watched:
            return
        slot = self._free.pop()
        self._of_row[row] = slot
        self._requests[slot] = (name, output_ids)
        parked = self._parked.pop(name, None)
        if not self._slots.enter(slot, prompt_ids, len(output_ids), options, parked):
            self._lost()

    def _find(self, output_ids: list[int]) -> tuple[str, Any] | None:
        """Find the request that these generated tokens are of, if the runner has it; the youngest come last.

        Its parameters do not tell it apart: answers to one request (`n`) may share them.
        """
        newest = reversed(self._known.items())
        return next((one for one in newest if one[1].output_token_ids is output_ids), None)

    def _leave(self, row: int) -> None:
        slot = int(self._of_row[row])
        if slot == self._slots.idle:
            return
        self._of_row[row] = self._slots.idle
        self._free.append(slot)
        name, output_ids = self._requests.pop(slot)
        parked = self._slots.leave(slot, len(output_ids))
        if parked is not None and name in self._known:
            self._parked[name] = parked
