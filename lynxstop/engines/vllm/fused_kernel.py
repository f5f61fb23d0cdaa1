"""One kernel per decoding step: look-up, guards, probe, decision and forcing, in Triton.

The array forms are `lynxstop.engines.vllm.device_sessions` and `drafted_sessions`; names and order are the
same, and property tests hold them equal. A program is one request, and walks its rows: one, and one more per
draft. Importing this module needs Triton.
"""

# mypy: ignore-errors
# ruff: noqa: E501
from __future__ import annotations

import triton
import triton.language as tl

from lynxstop.engines.vllm import device_sessions as fields
from lynxstop.engines.vllm import drafted_sessions as drafted
from lynxstop.engines.vllm import product_automaton as shown
from lynxstop.engines.vllm.session_batch import BOOST, COUNTERS, EXIT_KINDS

_STATE, _SEEN, _LAST = (tl.constexpr(n) for n in (fields.STATE, fields.SEEN, fields.LAST))
_NUMBER, _ADMITTED = tl.constexpr(fields.NUMBER), tl.constexpr(fields.ADMITTED)
_FORCED, _LENGTH, _STOPS = (tl.constexpr(n) for n in (fields.FORCED, fields.LENGTH, fields.STOPS))
_BUDGET, _THRESHOLD, _PENDING = (tl.constexpr(n) for n in (fields.BUDGET, fields.THRESHOLD, fields.PENDING))
_EXIT, _EXIT_SCORE = tl.constexpr(fields.EXIT), tl.constexpr(fields.SCORE)
_COUNTED, _BASE, _ROWS = (tl.constexpr(n) for n in (drafted.COUNTS.start, drafted.BASE, drafted.READ))
_ENDLESS, _DEAD = tl.constexpr(fields.ENDLESS), tl.constexpr(shown.DEAD)
_THINKING, _WHOLE = tl.constexpr(shown.THINKING), tl.constexpr(shown.WHOLE)
_SETTLED, _CANDIDATE = tl.constexpr(shown.SETTLED), tl.constexpr(shown.CANDIDATE)
_SHIFT, _MASK = tl.constexpr(shown.SHIFT), tl.constexpr(fields.MASK)
_CUES, _SCORED, _NOT_FINITE = (tl.constexpr(COUNTERS.index(n)) for n in ("cues", "scored", "not_finite"))
_BY_SCORE, _BY_BUDGET = (tl.constexpr(COUNTERS.index(n)) for n in ("exits_score", "exits_budget"))
_TOKENS, _REFUSED, _LOST = (tl.constexpr(COUNTERS.index(n)) for n in ("exit_tokens", "refused", "lost"))
_BOOST, _EXIT_KINDS, _COUNTERS = tl.constexpr(BOOST), tl.constexpr(EXIT_KINDS), tl.constexpr(len(COUNTERS))
_LANES = tl.constexpr(16)
"""Counters as one vector; a power of 2."""


@triton.jit
def _layer(inputs, weights, biases, outputs, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, UNITS: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    """Apply an affine map to ReLU of numbers in scratch memory; all float32."""
    unit, lane = tl.arange(0, UNITS), tl.arange(0, BLOCK)
    for first in range(0, OUTPUTS, UNITS):
        total = tl.full([UNITS], 0.0, tl.float32)
        rows = first + unit
        for k in range(0, INPUTS, BLOCK):
            x = tl.load(inputs + k + lane, mask=k + lane < INPUTS, other=0.0)
            x = tl.where(x < 0.0, 0.0, x)  # keeps NaN, as torch does
            inside = (rows < OUTPUTS)[:, None] & (k + lane < INPUTS)[None, :]
            w = tl.load(weights + rows[:, None] * INPUTS + (k + lane)[None, :], mask=inside, other=0.0)
            total += tl.sum(w * x[None, :], axis=1)
        total += tl.load(biases + rows, mask=rows < OUTPUTS, other=0.0)
        tl.store(outputs + rows, total, mask=rows < OUTPUTS)


@triton.jit
def _score(states, row, place, weights, biases, scratch, WIDTH: tl.constexpr, TAPPED: tl.constexpr,
           SIZES: tl.constexpr, HALF: tl.constexpr, UNITS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Score a row, float32; NaN where a feature is not finite. `scratch` has room for two layers."""
    unit, lane = tl.arange(0, UNITS), tl.arange(0, BLOCK)
    unsound = tl.full([BLOCK], 0, tl.int32)
    for first in range(0, SIZES[0], UNITS):
        total = tl.full([UNITS], 0.0, tl.float32)
        rows = first + unit
        for layer in tl.static_range(len(states)):
            at = row
            if layer < TAPPED:
                at = place
            for k in range(0, WIDTH, BLOCK):
                here = k + lane < WIDTH
                x = tl.load(states[layer] + at * WIDTH + k + lane, mask=here, other=0.0).to(tl.float32)
                unsound += tl.where(tl.abs(x) < float("inf"), 0, 1)
                inside = (rows < SIZES[0])[:, None] & here[None, :]
                column = layer * WIDTH + k + lane
                w = tl.load(weights[0] + rows[:, None] * (len(states) * WIDTH) + column[None, :],
                            mask=inside, other=0.0)  # fmt: skip
                total += tl.sum(w * x[None, :], axis=1)
        total += tl.load(biases[0] + rows, mask=rows < SIZES[0], other=0.0)
        tl.store(scratch + rows, total, mask=rows < SIZES[0])
    for number in tl.static_range(1, len(SIZES)):
        tl.debug_barrier()
        _layer(scratch + (number - 1) % 2 * HALF, weights[number], biases[number], scratch + number % 2 * HALF,
               SIZES[number - 1], SIZES[number], UNITS, BLOCK)  # fmt: skip
    tl.debug_barrier()
    value = tl.load(scratch + (len(SIZES) - 1) % 2 * HALF)
    return tl.where(tl.sum(unsound) > 0, float("nan"), value)


@triton.jit
def _admit(cue, position, last, number, admitted, cooldown, min_tokens, stride, most):
    """Apply the guards to a cue: whether it is eligible, and the state after it."""
    number += cue.to(tl.int32)
    good = cue & (position - last >= cooldown) & (position >= min_tokens)
    good = good & (number % stride == 0) & (admitted < most)
    return good, tl.where(good, position, last), number, admitted + good.to(tl.int32)


@triton.jit
def _decide(flags, score, pending, seen, last, number, admitted, budget, threshold, exit, exit_score,
            tilt, cooldown, min_tokens, stride, most, GUARDED: tl.constexpr):  # fmt: skip
    """Decide at a token: whether its score, or its budget, stops it; then the guards and the exit after it."""
    whole, settled = (flags & _WHOLE) != 0, (flags & _SETTLED) != 0
    now, before, earlier, current = whole, settled, pending, score
    if GUARDED:
        earlier = pending - tilt * admitted.to(tl.float32)
        before, last, number, admitted = _admit(
            settled, seen - 1, last, number, admitted, cooldown, min_tokens, stride, most
        )
        current = score - tilt * admitted.to(tl.float32)
        now, last, number, admitted = _admit(
            whole, seen, last, number, admitted, cooldown, min_tokens, stride, most
        )
    by_earlier = before & (earlier > threshold)
    hit = by_earlier | (now & (current > threshold))
    spent = ((flags & _THINKING) != 0) & (seen >= budget) & (hit == 0)
    exit = tl.where(hit | spent, seen * _EXIT_KINDS + 2 - hit.to(tl.int32), exit)
    bits = tl.where(by_earlier, earlier, current).to(tl.int32, bitcast=True)
    return hit, spent, last, number, admitted, exit, tl.where(hit, bits, exit_score)


@triton.jit
def _over(token, position, ends, width, DRAFTED: tl.constexpr):
    """Whether a token ends the text of its request, or comes after its end; `ends` is its row of the table."""
    over = token != token
    if DRAFTED:
        over = tl.load(position).to(tl.int32) + 1 >= tl.load(ends)
    for number in range(1, width):
        over = over | (token == tl.load(ends + number))
    return over


@triton.jit
def _accepted(kept, position, field_stride, level_stride):
    """Where the state at a position is kept, and whether there is one, by the states kept of a request."""
    chosen = position - tl.load(kept + _BASE * field_stride)
    most = tl.load(kept + _ROWS * field_stride)
    known = (chosen >= 0) & (chosen <= most)
    return kept + tl.minimum(tl.maximum(chosen, 0), most).to(tl.int64) * level_stride, known


@triton.jit
def _keep(at, field_stride, state, seen, last, number, admitted, forced, budget, threshold, pending, exit,
          exit_score):  # fmt: skip
    """Store what a row may have changed."""
    tl.store(at + _STATE * field_stride, state)
    tl.store(at + _SEEN * field_stride, seen)
    tl.store(at + _LAST * field_stride, last)
    tl.store(at + _NUMBER * field_stride, number)
    tl.store(at + _ADMITTED * field_stride, admitted)
    tl.store(at + _FORCED * field_stride, forced)
    tl.store(at + _BUDGET * field_stride, budget)
    tl.store(at + _THRESHOLD * field_stride, threshold.to(tl.int32, bitcast=True))
    tl.store(at + _PENDING * field_stride, pending.to(tl.int32, bitcast=True))
    tl.store(at + _EXIT * field_stride, exit)
    tl.store(at + _EXIT_SCORE * field_stride, exit_score)


@triton.jit
def _raise(logits, forced, exit_ids):
    """Raise the logit of the wanted token of a row, if there is one."""
    if forced >= 0:
        wanted = logits + tl.load(exit_ids + forced)
        tl.store(wanted, tl.load(wanted).to(tl.float32) + _BOOST)


_UNSPECIALIZED = (
    "requests", "tokens", "places", "positions", "ends", "logits", "shows", "wanted", "exits", "field_stride",
    "level_stride", "logits_stride", "many", "ends_width", "placed", "beyond", "columns", "cooldown", "min_tokens",
    "stride", "most", "forces",
)  # fmt: skip


@triton.jit(do_not_specialize=_UNSPECIALIZED, do_not_specialize_on_alignment=_UNSPECIALIZED)
def fused_step(
    kept, requests, tokens, places, positions, ends, states, logits, classes, table, exit_ids, weights, biases,
    scratch, counters, shows, wanted, exits, field_stride, level_stride, logits_stride, many, ends_width, placed,
    beyond, columns, tilt, cooldown, min_tokens, stride, most, forces,
    DRAFTED: tl.constexpr, GUARDED: tl.constexpr, WIDTH: tl.constexpr, TAPPED: tl.constexpr,
    SIZES: tl.constexpr, HALF: tl.constexpr, UNITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Read the rows of one request in order, decide, keep its states, and raise logits of forced tokens.

    Parameters
    ----------
    kept : int32, shape (fields, slots), or (levels, fields, slots) when `DRAFTED`
        States of all slots; `level_stride` is 0 without levels.
    requests : int32, shape (5, many)
        Slot of each request, whether its (first) token counts, its first row, how many rows follow one
        another, and whether all is to stay as it is.
    tokens, places, positions : integers, shape (rows,)
        Token of each row, its index in the forward pass (used for tapped layers when `placed` is 1), and its
        place in the sequence of its request (used when `DRAFTED`).
    ends : int32, shape (slots, ends_width)
        As `TextEnds.table` gives it; not used where `ends_width` is 0.
    states : tuple of arrays of shape (at least rows, WIDTH)
        Hidden states by layer; the first `TAPPED` are indexed by place, the others by row.
    logits : float, shape (rows, vocabulary)
        Changed where a token is forced, if `forces` is 1.
    scratch : float32, shape (many, 2 * HALF)
        `HALF` is the size of the largest layer of the probe.
    shows, wanted : int32, shape (rows,)
        Get the flags of each token, and the exit token that is forced after it (-1: none).
    exits : int32, shape (2, many)
        Gets what `SessionBatch.exits` gives.
    """
    request = tl.program_id(0).to(tl.int64)
    slot = tl.load(requests + request).to(tl.int64)
    reads = tl.load(requests + many + request) != 0
    first = tl.load(requests + 2 * many + request).to(tl.int64)
    count = tl.load(requests + 3 * many + request)
    held = tl.load(requests + 4 * many + request) != 0
    live = held == 0
    scratch += request * (2 * HALF)
    lane = tl.arange(0, _LANES)
    counts = tl.full([_LANES], 0, tl.int32)
    here = kept + slot
    at = here
    if DRAFTED:
        at, known = _accepted(here, tl.load(positions + first).to(tl.int32), field_stride, level_stride)
        gained = tl.load(at + (_COUNTED + lane) * field_stride, mask=lane < _COUNTERS, other=0)
    state, seen = tl.load(at + _STATE * field_stride), tl.load(at + _SEEN * field_stride)
    last, number = tl.load(at + _LAST * field_stride), tl.load(at + _NUMBER * field_stride)
    admitted, forced = tl.load(at + _ADMITTED * field_stride), tl.load(at + _FORCED * field_stride)
    length, stops = tl.load(at + _LENGTH * field_stride), tl.load(at + _STOPS * field_stride)
    budget = tl.load(at + _BUDGET * field_stride)
    threshold = tl.load(at + _THRESHOLD * field_stride).to(tl.float32, bitcast=True)
    pending = tl.load(at + _PENDING * field_stride).to(tl.float32, bitcast=True)
    exit, exit_score = tl.load(at + _EXIT * field_stride), tl.load(at + _EXIT_SCORE * field_stride)
    tl.debug_barrier()  # every warp has read the state before any writes it
    rows = count * 0
    if DRAFTED:
        # a request whose position is none of those kept is lost, and left alone
        lost = live & (known == 0) & (state != _DEAD)
        gained = tl.where(live & known, gained, 0) + tl.where(lane == _LOST, lost.to(tl.int32), 0)
        tl.atomic_add(counters + lane, gained.to(tl.int64), mask=gained != 0)
        state, forced = tl.where(lost, _DEAD, state), tl.where(lost, -1, forced)
        budget = tl.where(lost, _ENDLESS, budget)
        tl.store(exits + request, exit)
        tl.store(exits + many + request, exit_score)
        if live:
            _keep(here, field_stride, state, seen, last, number, admitted, forced, budget, threshold, pending,
                  exit, exit_score)  # fmt: skip
            tl.store(here + (_COUNTED + lane) * field_stride, counts, mask=lane < _COUNTERS)
            tl.store(here + _BASE * field_stride, tl.load(positions + first).to(tl.int32))
    for ahead in range(count):
        row = first + ahead
        token = tl.load(tokens + row).to(tl.int32)
        live = live & (token >= 0)
        flags = token * 0
        if live & (reads | (ahead > 0)):
            if ends_width > 0:
                over = _over(token, positions + row, ends + slot * ends_width, ends_width, DRAFTED)
                state, forced = tl.where(over, _DEAD, state), tl.where(over, -1, forced)
                budget = tl.where(over, _ENDLESS, budget)
            # a token that is not the wanted one ends the forcing
            active = forced >= 0
            expected = tl.load(exit_ids + tl.maximum(forced, 0)).to(tl.int32)
            following = tl.where((token == expected) & (forced + 1 < length), forced + 1, -1)
            forced = tl.where(active, following, forced)
            refused = active & (token != expected)
            column = tl.load(classes + tl.minimum(token, beyond))
            entry = tl.load(table + state.to(tl.int64) * columns + column)
            state, flags = entry >> _SHIFT, entry & _MASK
            seen += flags & _THINKING
            candidate = (flags & _CANDIDATE) != 0
            cues = ((flags & _WHOLE) != 0).to(tl.int32) + ((flags & _SETTLED) != 0).to(tl.int32)
            score = pending
            if candidate:
                place = tl.where(placed != 0, tl.load(places + row).to(tl.int64), row)
                tl.debug_barrier()  # every warp has read the score of the row before
                score = _score(
                    states, row, place, weights, biases, scratch, WIDTH, TAPPED, SIZES, HALF, UNITS, BLOCK
                )
            hit, spent, last, number, admitted, exit, exit_score = _decide(
                flags, score, pending, seen, last, number, admitted, budget, threshold, exit, exit_score,
                tilt, cooldown, min_tokens, stride, most, GUARDED,
            )  # fmt: skip
            stop = hit | spent
            force = stop & (stops != 0)
            pending = score
            forced, state = tl.where(force, 0, forced), tl.where(force, _DEAD, state)
            threshold = tl.where(stop, float("inf"), threshold)
            budget = tl.where(stop, _ENDLESS, budget)
            counts += tl.where(lane == _CUES, cues, 0)
            counts += tl.where(lane == _SCORED, candidate.to(tl.int32), 0)
            counts += tl.where(lane == _NOT_FINITE, (candidate & (score != score)).to(tl.int32), 0)
            counts += tl.where(lane == _BY_SCORE, hit.to(tl.int32), 0)
            counts += tl.where(lane == _BY_BUDGET, spent.to(tl.int32), 0)
            counts += tl.where(lane == _TOKENS, tl.where(stop, seen, 0), 0)
            counts += tl.where(lane == _REFUSED, refused.to(tl.int32), 0)
        here += level_stride
        if live:
            _keep(here, field_stride, state, seen, last, number, admitted, forced, budget, threshold, pending,
                  exit, exit_score)  # fmt: skip
            if DRAFTED:
                tl.store(here + (_COUNTED + lane) * field_stride, counts, mask=lane < _COUNTERS)
        rows += live.to(tl.int32)
        following_token = tl.where(live, forced, -1)
        tl.store(wanted + row, following_token)
        tl.store(shows + row, flags)
        if forces != 0:
            _raise(logits + row * logits_stride, following_token, exit_ids)
    if DRAFTED:
        tl.store(kept + slot + _ROWS * field_stride, rows, mask=held == 0)
    else:
        tl.atomic_add(counters + lane, counts.to(tl.int64), mask=counts != 0)
        tl.store(exits + request, exit)
        tl.store(exits + many + request, exit_score)


@triton.jit(do_not_specialize=("logits", "logits_stride"), do_not_specialize_on_alignment=("logits",))
def fused_force(wanted, logits, exit_ids, logits_stride):
    """Raise the logit of the token that `fused_step` wants after a row."""
    row = tl.program_id(0).to(tl.int64)
    _raise(logits + row * logits_stride, tl.load(wanted + row), exit_ids)
