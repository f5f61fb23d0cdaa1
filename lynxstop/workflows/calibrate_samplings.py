"""Certify a bundle at several samplings in one run: one recording and one set of thresholds for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lynxstop.artifacts.bundle import Bundle, ServedSampling
from lynxstop.calibration.groups import split_groups
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import Calibration
from lynxstop.errors import ConfigError
from lynxstop.recordings.storage import Recording
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, scored


def calibrate_samplings(
    bundle: Bundle,
    recordings: Sequence[Recording],
    options: CalibrationOptions,
    *,
    train: Recording | None = None,
    split: str | None = None,
) -> tuple[Calibration, ...]:
    """Certify levels of a bundle at several samplings, each on its own recording; nothing is written.

    Each sampling has its own thresholds, tested at their own share of the error: that of a level, or, with
    `together="all"`, that of a level, group and sampling.

    Parameters
    ----------
    bundle, options, train, split
        As in `calibrate_bundle`.
    recordings : sequence of Recording
        Of different temperatures, top-p or top-k, and else recorded as the bundle is served; one at the
        bundle's own sampling.

    Returns
    -------
    tuple of Calibration
        The one at the bundle's own sampling first.

    Raises
    ------
    ConfigError
        When two recordings have one sampling, or none the bundle's.
    FingerprintError, DataError, CalibrationError
        As `calibrate_bundle`.
    """
    own = bundle.policy.sampling
    samplings = [
        own.model_copy(update={name: getattr(data.meta, name) for name in ("temperature", "top_p", "top_k")})
        for data in recordings
    ]
    drawn = [sampling.conditions for sampling in samplings]
    for place, one in enumerate(drawn):
        if any(one.draws_like(other) for other in drawn[:place]):
            raise ConfigError(
                f"Two recordings were sampled in the same way: {one.label}.",
                hint="Give one recording of each sampling; `lynxstop collect --append` adds problems to it.",
            )
    if not any(one.draws_like(own.conditions) for one in drawn):
        raise ConfigError(
            f"None of the recordings has the bundle's own sampling: {own.conditions.label}.",
            hint="Requests that name no sampling are served at it: give a recording of it as well.",
        )
    pairs = [(sampled_as(bundle, one), data) for one, data in zip(samplings, recordings, strict=True)]
    pairs.sort(key=lambda pair: not pair[0].policy.sampling.conditions.draws_like(own.conditions))
    parts = [_parts(one, data, options, split) for one, data in pairs]
    return tuple(
        calibrate_bundle(one, data, options, train=train, split=split, elsewhere=sum(parts) - mine)
        for (one, data), mine in zip(pairs, parts, strict=True)
    )


def sampled_as(bundle: Bundle, sampling: ServedSampling) -> Bundle:
    """Return the bundle as if it were of this sampling; its own stays as it is, so that all is compared."""
    if sampling.conditions.draws_like(bundle.policy.sampling.conditions):
        return bundle
    return replace(bundle, policy=bundle.policy.model_copy(update={"sampling": sampling}))


def _parts(bundle: Bundle, data: Recording, options: CalibrationOptions, split: str | None) -> int:
    """Count what is certified of a recording: all of it, and each of its groups."""
    if options.by is None:
        return 1
    return len(split_groups(scored(bundle, data, loss=options.loss, by=options.by, split=split), options.by))
