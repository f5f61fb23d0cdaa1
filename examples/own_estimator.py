"""Serve a classifier of your own: any that is affine maps with ReLU between them.

python examples/own_estimator.py recorded bundle
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lynxstop.probes.data import load
from lynxstop.probes.export import export_probe
from lynxstop.probes.train import train
from lynxstop.recordings.storage import Recording
from lynxstop.workflows.make_bundle import make_bundle

recorded, out = Recording.open(sys.argv[1]), Path(sys.argv[2])
last = recorded.layers[-1:]
machine = make_pipeline(StandardScaler(), LinearSVC(C=1e-3, class_weight="balanced"))

# By hand: fit, with Platt's curve from folds that keep problems whole, and export.
points = load(recorded, layers=last)
folds = list(StratifiedGroupKFold(5).split(points.X, points.y, points.groups))
calibrated = CalibratedClassifierCV(machine, method="sigmoid", ensemble=False, cv=folds)
calibrated.fit(points.X, points.y)
probe = export_probe(calibrated, last)
chance = 1 / (1 + np.exp(-probe.score(points.X)))
print(f"served and fitted differ by {np.abs(chance - calibrated.predict_proba(points.X)[:, 1]).max():.1e}")

# As a bundle: train also keeps the out-of-fold scores that calibration places its thresholds by.
trained = train(recorded, estimator=machine, layer_sets=[last])
print(f"out-of-fold AUC {trained.auc:.3f}")
make_bundle(recorded, trained, out, name=out.name)
