"""Calibration: from scored traces to certificates of the risk per request."""

from lynxstop.calibration.bundles import calibrate_bundle, install
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.groups import choose
from lynxstop.calibration.plan import Plan, plan
from lynxstop.calibration.recorded import from_recorded
from lynxstop.calibration.run import Calibration, calibrate
from lynxstop.calibration.tables import read_evidence, read_table, write_evidence
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.verify import differences, verify

__all__ = [
    "Calibration",
    "Certificate",
    "Plan",
    "TraceTable",
    "calibrate",
    "calibrate_bundle",
    "choose",
    "differences",
    "from_recorded",
    "install",
    "plan",
    "read_evidence",
    "read_table",
    "verify",
    "write_evidence",
]
