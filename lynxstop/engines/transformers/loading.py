"""Load a model folder into an engine, with a bundle to serve or a recipe to record with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.certified import Certified
from lynxstop.artifacts.fingerprint import Fingerprint, fingerprint, require_same
from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.setup import Setup, setup_from_bundle, setup_from_recipe
from lynxstop.artifacts.tokenizer import load_tokenizer
from lynxstop.core.conditions import Uncertified
from lynxstop.engines.torch.layers import layer_numbers
from lynxstop.engines.transformers.engine import DEFAULT_BATCH, TransformersEngine
from lynxstop.errors import ConfigError, ModelError
from lynxstop.extras import need


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """An engine, and the tokenizer, setup and fingerprint of its model."""

    engine: TransformersEngine
    tokenizer: Any
    setup: Setup
    fingerprint: Fingerprint
    dtype: str

    def close(self) -> None:
        """Do nothing: the model's memory is freed with it."""


def load_engine(
    model: Path,
    made_by: Bundle | Recipe,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    close_open_thinking: bool = False,
    uncertified: Uncertified = Uncertified.THINK,
) -> LoadedModel:
    """Load a model folder.

    Parameters
    ----------
    model : Path
        Hugging Face folder with configuration, tokenizer and safetensors weights.
    made_by : Bundle or Recipe
        A bundle is served with its probe, if it has one, and must belong to this model; a recipe records its
        layers, if it names any.
    device, dtype : str, optional
        As PyTorch names them; a GPU where there is one, and float32 on CPU, bfloat16 elsewhere.
    batch_size : int, optional
        Rows generated at once.
    close_open_thinking, uncertified
        See `TransformersEngine`.

    Raises
    ------
    ModelError
        When the folder cannot be loaded, or the hidden states of the model cannot be read.
    FingerprintError
        When the bundle belongs to another model.
    ConfigError
        When an exit is to cut before the cue, or there is no such device or data type.
    """
    torch = need("torch", "transformers")
    transformers = need("transformers", "transformers")
    found = fingerprint(model)
    if isinstance(made_by, Bundle):
        require_same(made_by.policy.fingerprint, found, f"The bundle {made_by.path}")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = dtype or ("float32" if place == "cpu" else "bfloat16")
    if not isinstance(getattr(torch, kind, None), torch.dtype):
        raise ConfigError(
            f"There is no data type {kind!r}.", hint="Give float32, bfloat16 or float16, or leave it out."
        )
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = load_tokenizer(model)
        network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, kind))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{model} cannot be loaded: {error}") from error
    try:
        network = network.to(place).eval()
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the device
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"The model cannot be put on the device {place!r}: {first}.",
            hint="Give another device, or leave it out.",
        ) from error
    setup = (
        setup_from_bundle(made_by, tokenizer)
        if isinstance(made_by, Bundle)
        else setup_from_recipe(made_by, tokenizer)
    )
    setup.require_cut_after()
    probe = made_by.probe if isinstance(made_by, Bundle) else None
    named = made_by.probe.layers if made_by.probe is not None else ()
    certified = None
    if isinstance(made_by, Bundle):
        certified = Certified.of(made_by, engine=TransformersEngine, dtype=kind)
    engine = TransformersEngine(
        network,
        tokenizer,
        setup.watch,
        setup.policy,
        probe=probe,
        layers=layer_numbers(named, network.config.get_text_config().num_hidden_layers),
        batch_size=batch_size or DEFAULT_BATCH,
        close_open_thinking=close_open_thinking,
        certified=certified,
        uncertified=uncertified,
    )
    return LoadedModel(engine=engine, tokenizer=tokenizer, setup=setup, fingerprint=found, dtype=kind)
