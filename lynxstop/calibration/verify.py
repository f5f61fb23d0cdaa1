"""Recompute a certificate from its evidence, without the model."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from lynxstop.artifacts.strict import Strict
from lynxstop.calibration.certificate import Certificate, Claim
from lynxstop.calibration.certify import case_for, certify
from lynxstop.calibration.methods import method_named
from lynxstop.calibration.promise import until
from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import CalibrationError

_REL_TOL = 1e-9
"""Of floats: p-values and limits may differ in their last digits between versions of scipy."""
_CLOCKS = timedelta(days=1)
"""How far the clocks of two computers may lie apart."""
_UNTESTED = {"lynxstop"}


def differences(certificate: Certificate, table: TraceTable) -> list[str]:
    """List what the evidence does not confirm, as sentences; empty when the certificate holds."""
    digest = table.digest()
    if digest != certificate.evidence_sha256:
        return ["The evidence is not the one the certificate was computed from: its digest differs."]
    claim = Claim(**{name: getattr(certificate, name) for name in Claim.model_fields})
    again = certify(case_for(table, claim), claim, table)
    if certificate.promise + until(certificate.expires) == again.promise:
        # Sentences once did not say when they end.
        again = again.model_copy(update={"promise": certificate.promise})
    found = []
    for name in Certificate.model_fields:
        said, is_now = getattr(certificate, name), getattr(again, name)
        if name not in _UNTESTED and not _same(said, is_now):
            shown = "" if name == "tested" else f": it says {said!r}, the evidence gives {is_now!r}"
            found.append(f"{name} differs{shown}.")
    found += _unused(certificate)
    if certificate.settings.by is not None and table.groups is None:
        found.append("settings.by names a column of groups, and the evidence has none.")
    if certificate.created > datetime.now(UTC) + _CLOCKS:
        found.append(f"It is dated {certificate.created:%Y-%m-%d}, which is to come.")
    if certificate.expires is not None and certificate.expires <= certificate.created:
        found.append("It expired before it was made.")
    if certificate.expired:
        found.append(f"It expired on {certificate.expires:%Y-%m-%d}.")
    return found


def verify(certificate: Certificate, table: TraceTable) -> None:
    """Refuse a certificate that its evidence does not confirm, or that has expired.

    Raises
    ------
    CalibrationError
        Naming everything that differs.
    """
    found = differences(certificate, table)
    if found:
        raise CalibrationError(
            f"The certificate does not hold. {' '.join(found)}",
            hint="Trust neither file: calibrate again, or get both again from where they were made.",
        )


def _unused(certificate: Certificate) -> list[str]:
    """Settings that the method does not read, and that nothing would therefore confirm."""
    settings = certificate.settings
    found = []
    if settings.levels is not None and certificate.risk not in settings.levels:
        found.append("settings.levels does not name its own level.")
    if settings.levels is not None and settings.tests % len(settings.levels):
        found.append("settings.tests is not a multiple of its levels.")
    if settings.start is not None and not method_named(certificate.method).selective:
        found.append("settings.start is given, and its method starts nowhere.")
    if settings.tried > 1 and method_named(certificate.method).promise != "confidence":
        found.append("settings.tried is given, and its method has no confidence to share.")
    if settings.importance_limit is not None and settings.importance is None:
        found.append("settings.importance_limit is given without weights.")
    if settings.apart and settings.by is None and not settings.by_sampling:
        found.append("settings.apart is given without groups or samplings.")
    if certificate.group is not None and certificate.group.column != settings.by:
        found.append("settings.by is not the column of its group.")
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=_REL_TOL)
    if isinstance(one, tuple) and isinstance(other, tuple) and any(isinstance(x, Strict) for x in one):
        return len(one) == len(other) and all(_same(x, y) for x, y in zip(one, other, strict=True))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and bool(np.allclose(one, other, rtol=_REL_TOL, atol=0.0))
    if type(one) is type(other) and isinstance(one, Strict):
        return all(_same(getattr(one, name), getattr(other, name)) for name in type(one).model_fields)
    return bool(one == other)
