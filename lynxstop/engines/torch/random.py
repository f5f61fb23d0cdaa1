"""Random numbers keyed by the request: the same in any batch, order or engine run."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def uniforms(seed: int, request_id: str, count: int) -> NDArray[np.float64]:
    """Return the uniform numbers of the first `count` output positions of a request.

    Number i is a function of the seed, the request's id and i alone: the generator is Philox [1]_, keyed by a
    128-bit digest of the first two.

    Returns
    -------
    ndarray
        float64 in [0, 1), shape (count,).

    References
    ----------
    .. [1] Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    digest = blake2b(f"{seed}/{request_id}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)
