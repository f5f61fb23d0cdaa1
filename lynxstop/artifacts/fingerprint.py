"""Which model a bundle belongs to: digests of configuration, weights, tokenizer and chat template."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lynxstop.artifacts.strict import Strict
from lynxstop.errors import FingerprintError, ModelError

_VOLATILE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
"""Configuration keys that change between library versions or by the way of loading, not with the model."""
_SAMPLE = 65_536
"""Bytes of tensor data read at the start and at the end of every weights file."""
_PATH = 4096
"""Longer texts are no paths."""


class Fingerprint(Strict):
    """Digests that tell one model folder from another."""

    config: str
    weights: str
    """Of every weights file: name, size, header, and the first and last 64 KiB of data."""
    tokenizer: str
    template: str

    def differences(self, other: Fingerprint) -> list[str]:
        """Names of the parts in which the two differ."""
        return [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]


def fingerprint(model: Path, weights: Path | None = None) -> Fingerprint:
    """Fingerprint a Hugging Face model folder.

    Parameters
    ----------
    model : Path
    weights : Path, optional
        Folder of the weights, where they lie in one of their own.

    Raises
    ------
    ModelError
        When the folder has no configuration, no weights or no tokenizer, or a file cannot be read.
    """
    try:
        config: dict[str, Any] = json.loads((model / "config.json").read_text())
        template = _template(model)
    except (OSError, json.JSONDecodeError) as error:
        why = f"{Path(error.filename).name}: {error.strerror}" if isinstance(error, OSError) else str(error)
        bundle = (model / "policy.json").is_file()
        raise ModelError(
            f"{model} is {'a bundle, not' if bundle else 'not'} a model folder ({why}).",
            hint="Give a folder with config.json, tokenizer files and safetensors weights.",
        ) from error
    files = sorted((weights or model).glob("*.safetensors"))
    try:
        has_tokenizer, tokenizer = _vocabulary(model)
        samples = b"".join(_weights_sample(path) for path in files)
    except OSError as error:
        raise ModelError(
            f"{error.filename} cannot be read: {error.strerror}.",
            hint="The user that this runs as must be able to read the whole folder.",
        ) from error
    if not has_tokenizer or not files:
        missing = (
            f"{weights or model} has no safetensors weights" if has_tokenizer else f"{model} has no tokenizer"
        )
        raise ModelError(f"{missing}.", hint="Download the model's folder completely.")
    stable = {key: value for key, value in config.items() if key not in _VOLATILE}
    return Fingerprint(
        config=_digest(json.dumps(stable, sort_keys=True).encode()),
        weights=_digest(samples),
        tokenizer=tokenizer,
        template=template,
    )


def require_same(recorded: Fingerprint, found: Fingerprint, what: str) -> None:
    """Refuse a model that is not the recorded one.

    Raises
    ------
    FingerprintError
        Names what belongs to another model, and the parts that differ.
    """
    if different := recorded.differences(found):
        raise FingerprintError(
            f"{what} belongs to another model: {', '.join(different)} differ.",
            hint="Serve the model it was made for, or collect, train and calibrate again for this one.",
        )


def require_same_tokenizer(recorded: Fingerprint, folder: Path, what: str) -> None:
    """Refuse a tokenizer from a folder of its own that is not the recorded one, chat template included.

    Raises
    ------
    FingerprintError
        Names the parts that differ.
    ModelError
        When the folder has no tokenizer.
    """
    try:
        found = {"tokenizer": _vocabulary(folder)[1], "template": _template(folder)}
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder} has no tokenizer.", hint="Serve with the model's own.") from error
    require_same(recorded, recorded.model_copy(update=found), what)


def require_same_template(recorded: Fingerprint, template: str, what: str) -> None:
    """Refuse a chat template, given as a file or as text, that is not the recorded one.

    Raises
    ------
    FingerprintError
        When it is another.
    """
    path = Path(template)
    text = path.read_text() if len(template) < _PATH and path.is_file() else template
    # A model's own template may be in its file alone, or in that of the tokenizer's settings.
    digests = {_digest(text.encode()), _digest(json.dumps(text).encode())}
    if recorded.template not in digests:
        require_same(recorded, recorded.model_copy(update={"template": min(digests)}), what)


def _template(folder: Path) -> str:
    """Return the digest of a folder's chat template."""
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    jinja = folder / "chat_template.jinja"
    text = jinja.read_text() if jinja.exists() else json.dumps(settings.get("chat_template"))
    return _digest(text.encode())


def _vocabulary(folder: Path) -> tuple[bool, str]:
    """Whether a folder has a tokenizer, and the digest of its files."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tekken.json")
    found = [path for path in sorted(folder.iterdir()) if path.name in names]
    return bool(found), _digest(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in found))


def _weights_sample(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        start = file.read(min(header, size) + _SAMPLE)
        file.seek(max(0, size - _SAMPLE))
        return path.name.encode() + size.to_bytes(8, "little") + start + file.read()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
