"""The same prompt under several names: problems are known by their prompts, as far as these are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import DataError


def joined_ids(problem_ids: NDArray[np.str_], prompts: NDArray[np.str_]) -> NDArray[np.str_]:
    """Give problems that share a prompt one id, the first in order; all of shape (traces,).

    Prompts that are empty are not known, and join nothing.

    Examples
    --------
    >>> joined_ids(np.array(["a", "b", "b", "c"]), np.array(["x", "x", "y", ""])).tolist()
    ['a', 'a', 'a', 'c']
    """
    names, problem = np.unique(problem_ids, return_inverse=True)
    _, prompt = np.unique(prompts, return_inverse=True)
    known = prompts != ""
    first = np.arange(len(names))
    while True:
        lowest = np.full(prompt.max(initial=0) + 1, len(names))
        np.minimum.at(lowest, prompt[known], first[problem[known]])
        after = first.copy()
        np.minimum.at(after, problem[known], lowest[prompt[known]])
        if np.array_equal(after, first):
            break
        first = after
    ids: NDArray[np.str_] = names[first[problem]]
    return ids


def joined(table: TraceTable) -> TraceTable:
    """Return the table with problems joined that share a prompt, as far as prompts are known."""
    if table.prompts is None:
        return table
    return replace(table, problem_ids=joined_ids(table.problem_ids, table.prompts))


def repeated(table: TraceTable) -> int | None:
    """Count the problems that share their prompt with an earlier one; None where no prompt is known."""
    if table.prompts is None:
        return None
    return len(np.unique(table.problem_ids)) - len(np.unique(joined(table).problem_ids))


def check_unseen(
    training: Sequence[str], problem_ids: NDArray[np.str_], prompts: NDArray[np.str_] | None
) -> None:
    """Refuse a calibration problem whose prompt is one of the training data, whatever its id.

    Parameters
    ----------
    training : sequence of str
        Digests of the training prompts; empty where they are not known.
    problem_ids : array of str, shape (traces,)
    prompts : array of str, shape (traces,), optional
        Digests, empty where one is not known.

    Raises
    ------
    DataError
        When the two share a prompt.
    """
    if prompts is None or not len(training):
        return
    seen = np.isin(prompts, np.array(training, dtype=np.str_)) & (prompts != "")
    if seen.any():
        raise DataError(
            f"{len(np.unique(prompts[seen]))} prompts are in training and here, under the same or "
            f"another id, for instance that of problem {str(problem_ids[seen][0])!r}.",
            hint="Leave these problems out: what was trained on cannot be calibrated or measured on.",
        )
