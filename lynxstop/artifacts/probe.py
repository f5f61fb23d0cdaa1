"""A trained probe: from hidden states to the logit that an answer forced now is right."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lynxstop.artifacts import atomic
from lynxstop.errors import BundleError

FORMAT = "lynxstop-probe-1"
"""Version of the file; files of other versions are refused."""

Affine = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Affine maps with ReLU between them; one map is a logistic regression, three an MLP.

    Parameters
    ----------
    layers : tuple of int
        Hidden states the features are made of, ascending, numbered as in `output_hidden_states`.
    affines : tuple of (weight, bias)
        float32; weight of shape (out, in), bias of shape (out,). The first takes raw features: the
        standardiser is folded into it. The last has one output, the logit.

    Raises
    ------
    BundleError
        When shapes do not chain, a type is not float32, or a number is not finite.
    """

    layers: tuple[int, ...]
    affines: tuple[Affine, ...]

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise BundleError("A probe names its layers once each, in ascending order.")
        if not self.affines:
            raise BundleError("A probe needs at least one affine map.")
        inputs = None
        for number, (weight, bias) in enumerate(self.affines):
            if weight.dtype != np.float32 or bias.dtype != np.float32:
                raise BundleError(f"Map {number} of the probe is not float32.")
            if weight.ndim != 2 or bias.shape != weight.shape[:1] or inputs not in (None, weight.shape[1]):
                raise BundleError(f"Map {number} of the probe has shapes {weight.shape} and {bias.shape}.")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise BundleError(f"Map {number} of the probe holds numbers that are not finite.")
            inputs = weight.shape[0]
        if inputs != 1 or self.width == 0 or self.width % len(self.layers):
            raise BundleError("The probe does not map the features of its layers to one logit.")

    @property
    def width(self) -> int:
        """Number of features: layers times hidden size."""
        return int(self.affines[0][0].shape[1])

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of cues.

        Parameters
        ----------
        features : ndarray
            float32, shape (cues, width).

        Returns
        -------
        ndarray
            float32, shape (cues,); NaN, which never exits, where a feature is not finite.

        Raises
        ------
        BundleError
            When the width is not the probe's.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            raise BundleError(
                f"The probe takes features of shape (cues, {self.width}), not {features.shape}."
            )
        sound = np.asarray(np.isfinite(features).all(axis=1))
        values = np.where(sound[:, None], features, np.float32(0)).astype(np.float32)
        for number, (weight, bias) in enumerate(self.affines):
            values = (np.maximum(values, np.float32(0)) if number else values) @ weight.T + bias
        return np.where(sound, values[:, 0], np.float32(np.nan)).astype(np.float32)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the maps by name: ``0.weight``, ``0.bias``, ``1.weight``, ..."""
        named: dict[str, NDArray[np.float32]] = {}
        for number, (weight, bias) in enumerate(self.affines):
            named[f"{number}.weight"], named[f"{number}.bias"] = weight, bias
        return named

    @classmethod
    def from_tensors(cls, layers: tuple[int, ...], tensors: Mapping[str, NDArray[np.float32]]) -> Probe:
        """Rebuild a probe from `tensors`.

        Raises
        ------
        BundleError
            When a map is missing or a name is unknown, and as the constructor does.
        """
        count = len(tensors) // 2
        names = {f"{number}.{part}" for number in range(count) for part in ("weight", "bias")}
        if not names or set(tensors) != names:
            raise BundleError("The probe's tensors are not pairs of weight and bias, numbered from 0.")
        pairs = ((tensors[f"{number}.weight"], tensors[f"{number}.bias"]) for number in range(count))
        return cls(layers, tuple((np.ascontiguousarray(w), np.ascontiguousarray(b)) for w, b in pairs))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; it is complete or absent, and the same bytes for the same probe."""
        metadata = {"format": FORMAT, "layers": json.dumps(self.layers), "width": str(self.width)}
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors().items()}
        atomic.write_bytes(Path(path), _ordered(save(tensors, metadata), metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Probe:
        """Read what `save` wrote.

        Raises
        ------
        BundleError
            When the file is missing, damaged, of another version, or does not hold a probe.
        """
        if not Path(path).is_file():
            raise BundleError(f"There is no probe at {path}.")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, AttributeError, TypeError, ValueError) as error:
            # numpy lacks some of the types that the format has.
            raise BundleError(f"The probe at {path} is damaged and cannot be read.") from error
        if metadata.get("format") != FORMAT:
            raise BundleError(
                f"The probe at {path} has format {metadata.get('format')!r}; this version reads {FORMAT!r}.",
                hint="Train it again, or use the version of lynxstop that wrote it.",
            )
        try:
            layers = tuple(int(layer) for layer in json.loads(metadata["layers"]))
            width = int(metadata["width"])
        except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise BundleError(f"The metadata of the probe at {path} is damaged.") from error
        probe = cls.from_tensors(layers, tensors)
        if probe.width != width:
            raise BundleError(f"The probe at {path} says it takes {width} features, but takes {probe.width}.")
        return probe


def _ordered(content: bytes, metadata: dict[str, str]) -> bytes:
    """Write the metadata in their own order: the library's is another one in each call."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end]) | {"__metadata__": metadata}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]
