"""The sums of rows of logits on a CPU: each row is read from memory once, and written once.

PyTorch passes over a row once per operation, and a row of 150,000 logits does not stay in the caches; here
all sums are taken block by block. Compiled by Numba, in a second or two, when this module is imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite.binding import ffi
from numba import float32, int64, njit, void

from lynxstop.core.statistics import LEAST

# vLLM looks for a `kernel` in whatever any module holds when it starts on a CPU. llvmlite's library answers
# to any name with a function, to `__dict__` too, and no engine starts any more where Numba is loaded.
ffi.lib._fntab.setdefault("__dict__", {})

_BLOCK = 512
_LEAST, _SMALLEST, _ZERO, _HALF = np.float32(LEAST), np.float32(-87), np.float32(0), np.float32(0.5)
_LOWEST, _SIGN, _REST = np.int32(-0x80000000), np.int32(31), np.int32(0x7FFFFFFF)
_MANTISSA, _BIAS = np.int32(23), np.int32(127)
# exp(x) = 2**n exp(r), r between -log(2) / 2 and log(2) / 2, where a polynomial serves; log(2) in two parts.
_TO_BINARY, _UPPER, _LOWER = (
    np.float32(1 / np.log(2)),
    np.float32(0.693359375),
    np.float32(np.log(2) - 0.693359375),
)
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / np.prod(np.arange(1.0, k + 1))) for k in range(8))


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _ordered(bits: Any) -> Any:
    """Turn the bits of floats into integers of the same order, and back.

    The highest of many integers is searched side by side, that of floats one by one, because of NaN.
    """
    return np.int32(bits ^ ((bits >> _SIGN) & _REST))


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _number(ordered: Any) -> Any:
    return np.int32(_ordered(np.int32(ordered))).view(np.float32)


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _highest(bits: Any) -> Any:
    best = _LOWEST
    for place in range(len(bits)):
        best = max(best, _ordered(bits[place]))
    return best


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _top_two(bits: Any) -> Any:
    """The two highest, as ordered integers; they lie in the two blocks with the highest maxima."""
    first = second = _LOWEST
    best = 0
    for start in range(0, len(bits), _BLOCK):
        block = _highest(bits[start : start + _BLOCK])
        if block > first:
            first, second, best = block, first, start
        elif block > second:
            second = block
    seen = False
    for place in range(best, min(best + _BLOCK, len(bits))):
        value = _ordered(bits[place])
        if value == first and not seen:
            seen = True
        elif value > second:
            second = value
    return first, second


# Sums may be taken side by side; that numbers are finite is not assumed.
@njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})  # type: ignore[untyped-decorator]
def _sums(logits: Any, first: Any, shifted: Any) -> Any:
    """Write logits minus the highest; return the sum of their exponentials, and of these times them."""
    total, weighted = _ZERO, _ZERO
    for place in range(len(logits)):
        below = logits[place] - first
        below = _LEAST if below < _LEAST else below  # written so that NaN stays
        shifted[place] = below
        bound = _SMALLEST if below < _SMALLEST else below
        power = np.floor(bound * _TO_BINARY + _HALF)
        rest = bound - power * _UPPER - power * _LOWER
        value = _C7
        value = value * rest + _C6
        value = value * rest + _C5
        value = value * rest + _C4
        value = value * rest + _C3
        value = value * rest + _C2
        value = value * rest + _C1
        value = value * rest + _C0
        weight = value * np.int32((np.int32(power) + _BIAS) << _MANTISSA).view(np.float32)
        weight = _ZERO if below < _SMALLEST else weight
        total += weight
        weighted += weight * below
    return total, weighted


_NUMBERS = float32[::1]


@njit(  # type: ignore[untyped-decorator]
    [void(_NUMBERS, int64[::1], _NUMBERS, float32[:, ::1], int64, int64)], error_model="numpy", nogil=True
)
def describe_rows(logits: Any, starts: Any, shifted: Any, found: Any, vocabulary: int, end: int) -> None:
    """Write rows of logits minus their highest, and what their statistics are computed from.

    Parameters
    ----------
    logits : float32 array of shape (numbers,)
    starts : int64 array of shape (rows,)
        Where in `logits` the rows begin.
    shifted : float32 array of shape (rows * vocabulary,)
        Where to write the rows minus their highest logits, at least `LEAST`; not part of `logits`.
    found : float32 array of shape (rows, 5)
        Where to write the two highest logits, the sum of the exponentials of `shifted`, that of these times
        `shifted`, and what `shifted` has at the token `end`.
    vocabulary, end : int
    """
    for row in range(len(starts)):
        given = logits[starts[row] : starts[row] + vocabulary]
        written = shifted[row * vocabulary : (row + 1) * vocabulary]
        first, second = _top_two(given.view(np.int32))
        highest = _number(first)
        total, weighted = 0.0, 0.0
        for start in range(0, vocabulary, 4 * _BLOCK):
            stop = min(start + 4 * _BLOCK, vocabulary)
            some, times = _sums(given[start:stop], highest, written[start:stop])
            total += some
            weighted += times
        found[row, 0], found[row, 1], found[row, 2], found[row, 3] = highest, _number(second), total, weighted
        found[row, 4] = written[end]
