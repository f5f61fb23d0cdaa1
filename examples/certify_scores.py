"""Certify scores of your own: no model, no bundle.

python examples/certify_scores.py
"""

import numpy as np

from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.traces import TraceTable

# 1,000 requests with five decision points each: a made-up score, and a loss of 1 where the answer is wrong.
rng = np.random.default_rng(0)
wrong = rng.random(5000) < np.tile([0.3, 0.2, 0.1, 0.05, 0.02], 1000)
table = TraceTable.from_arrays(
    problem_ids=[f"request {i}" for i in range(1000)],
    lengths=np.full(1000, 5),
    scores=rng.normal(size=5000) - 2 * wrong,
    losses=wrong,
    tokens=np.tile([100, 200, 300, 400, 500], 1000),
    full_tokens=np.full(1000, 600),
)
for certificate in calibrate(table, CalibrationOptions(risks=[0.02, 0.05])).certificates:
    print(f"threshold {certificate.threshold:.3f} saves {certificate.saved:.1%} of tokens")
    print(certificate.promise)
