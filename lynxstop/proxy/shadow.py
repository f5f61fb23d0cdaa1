"""Record shadow traffic: what every exit would have answered, as a score table to certify on.

For a request in shadow mode the proxy knows the whole answer. Afterwards it requests the answer at every
decision point, and the table gets one row per point: the score, whether that answer differs (empty where it
could not be judged, or the server failed), and the tokens. `lynxstop calibrate BUNDLE --from-shadow`
certifies the bundle's thresholds on it. No text is kept unless configured.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import hmac
import io
import json
import math
import os
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lynxstop.errors import ConfigError, LynxstopError
from lynxstop.proxy.arrival_order import ArrivalOrder, Turn
from lynxstop.proxy.full_answer import exit_answer
from lynxstop.proxy.logs import logger
from lynxstop.recordings.shadow_files import LEFT_OUT, PROMPTS, SALT, SERVED, TABLE
from lynxstop.remote.chat import Chat

if TYPE_CHECKING:
    from lynxstop.grading.grading import Grade, Grader

COLUMNS = (
    "trace_id",
    "problem_id",
    "cue",
    "score",
    "loss",
    "tokens",
    "full_tokens",
    "model",
    "answer_tokens",
)

AT_ONCE = 2
"""Requests whose exits are forced at a time."""

SECONDS = 3600.0
"""So long the rows of later requests wait for those of an earlier one."""

WAITING = 256
"""Requests under way and waiting for that; those that arrive beyond are not recorded."""


class ShadowRecord(NamedTuple):
    """A request's rows of the table, and its messages."""

    rows: list[tuple[Any, ...]]
    messages: Any


class ShadowRecorder:
    """Writes the score table of shadow requests.

    Parameters
    ----------
    folder : Path
        Holds `scores.csv`, the salt of its ids, what the bundle is served as, and why requests were left out;
        with `redact=False` also `prompts.jsonl`.
    redact : bool
        Keep no prompts; ids are keyed digests of them.
    answer_tokens : int
        Limit of a forced answer.
    on_done : callable
        Called with "recorded", "dropped", "unfinished", "unread" or "failed" for every request.
    served : mapping, optional
        What the bundle is served as, by which `calibrate` knows that these are its scores.
    grader : callable, optional
        Compares answers, the one that certified the bundle; by default as mathematics.

    Raises
    ------
    ConfigError
        When the folder holds traffic of another bundle or another version.
    OSError
        When the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        redact: bool,
        answer_tokens: int,
        on_done: Callable[[str], None],
        served: Mapping[str, Any] | None = None,
        grader: Grader | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._redact, self._answer_tokens = folder, redact, answer_tokens
        self._on_done = on_done
        self._salt = _once(folder / SALT, secrets.token_hex(16).encode())
        about = json.dumps(served or {}, sort_keys=True).encode()
        header, known = _once(folder / TABLE, _lines([COLUMNS])), _once(folder / SERVED, about)
        if not header.startswith(_lines([COLUMNS])) or known != about:
            raise ConfigError(
                f"{folder} holds shadow traffic of another bundle, or of another version of lynxstop.",
                hint="Record into a new folder.",
            )
        self._grader = grader
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = 0
        self._order = ArrivalOrder[ShadowRecord](SECONDS)

    def enter(self) -> Turn[ShadowRecord] | None:
        """Give a request that arrives its turn, if it will be recorded; then `take` follows.

        It is decided at the arrival, so that it does not depend on how long a request thinks.
        """
        if self._held >= WAITING:
            self._on_done("dropped")
            return None
        self._held += 1
        return self._order.enter()

    def take(self, chat: Chat, turn: Turn[ShadowRecord]) -> None:
        """Record a request that has ended, in the background, if all of it is known."""
        if chat.blind is not None:
            self._leave(turn, "unread")
        elif chat.final_report:
            self._begin(self._record(chat, turn))
        else:
            self._leave(turn, "unfinished")

    def _leave(self, turn: Turn[ShadowRecord], why: str) -> None:
        """Note why a request is not recorded after all.

        It is "unfinished" when its client left, or its server failed; "unread" when its tokens could not be
        read to the end.
        """
        self._on_done(why)
        with suppress(OSError):
            _append(self._folder / LEFT_OUT, f"{why}\n".encode())
        self._end(turn, None)

    async def drain(self) -> None:
        """Wait for what is being recorded."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._write(self._order.released(everything=True))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _record(self, chat: Chat, turn: Turn[ShadowRecord]) -> None:
        try:
            async with self._limit:
                rows = await self._rows(chat)
            self._end(turn, ShadowRecord(rows, chat.client_request.body["messages"]))
        except Exception as error:  # a request was served well; only its record is lost
            logger.warning("not_recorded", extra={"fields": {"error": type(error).__name__}})
            self._leave(turn, "failed")

    def _end(self, turn: Turn[ShadowRecord], found: ShadowRecord | None) -> None:
        self._held -= 1
        self._order.end(turn, found)
        self._write(self._order.released())

    def _write(self, records: Sequence[ShadowRecord]) -> None:
        for rows, messages in records:
            try:
                _append(self._folder / TABLE, _lines(rows))
                if not self._redact:
                    prompt = {"id": rows[0][1], "messages": messages}
                    _append(self._folder / PROMPTS, json.dumps(prompt, ensure_ascii=False).encode() + b"\n")
                self._on_done("recorded")
            except OSError as error:
                logger.warning("not_recorded", extra={"fields": {"error": type(error).__name__}})
                self._on_done("failed")

    async def _rows(self, chat: Chat) -> list[tuple[Any, ...]]:
        from lynxstop.grading.grading import grade as as_mathematics

        session, grade = chat.session, self._grader or as_mathematics
        full = await asyncio.to_thread(grade, chat.answer, None)
        prompt = json.dumps(chat.client_request.body["messages"], sort_keys=True).encode()
        problem = hmac.new(self._salt, prompt, hashlib.sha256).hexdigest()[:16]
        trace, thinking = secrets.token_hex(8), sum(session.thinking)
        shared = (thinking, str(chat.client_request.body.get("model")))
        rows: list[tuple[Any, ...]] = []
        for ordinal, event in enumerate(session.session.events):
            if not (event.eligible and math.isfinite(event.score)):
                continue
            truncation = session.truncation_at(event)
            assert chat.opening is not None
            loss: int | str = ""
            tokens: int | str = ""
            with suppress(LynxstopError):  # left out, the request would be missing because of what it is
                early = await exit_answer(chat, self._answer_tokens, truncation)
                trial, tokens = await asyncio.to_thread(grade, early.text or "", None), early.tokens
                loss = "" if math.isnan(differs := _differs(trial, full, grade)) else int(differs)
            point = (ordinal, repr(event.score), loss, truncation.thinking_tokens)
            rows.append((trace, problem, *point, *shared, tokens))
        return rows or [(trace, problem, "", "", "", "", *shared, "")]


def _differs(trial: Grade, full: Grade, grader: Grader) -> float:
    """Loss `disagree` of an exit; NaN where one of the two answers was not parsed."""
    from lynxstop.calibration.losses import LOSSES, Verdicts
    from lynxstop.grading.graders import same_of
    from lynxstop.grading.grading import agrees

    parsed = trial.status == full.status == "parsed"
    same = float(agrees(trial, full.answer, full.status, same_of(grader))) if parsed else math.nan
    unknown = np.array([math.nan])
    return float(LOSSES["disagree"].at_exit(Verdicts(np.array([same]), unknown, unknown))[0])


def _lines(rows: list[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _append(path: Path, content: bytes) -> None:
    """Add whole lines in one write, so that processes do not mix theirs."""
    place = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(place, content)
    finally:
        os.close(place)


def _once(path: Path, content: bytes) -> bytes:
    """Write a file unless it is there; return what it holds."""
    try:
        place = os.open(path, os.O_WRONLY | os.O_EXCL | os.O_CREAT, 0o600)
    except FileExistsError:
        return path.read_bytes()
    try:
        os.write(place, content)
    finally:
        os.close(place)
    return content
