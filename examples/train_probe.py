"""Train a probe on recorded data and write its bundle.

lynxstop collect MODEL train.jsonl recorded --recipe recipe.toml
python examples/train_probe.py recorded bundle
"""

import sys
from pathlib import Path

from lynxstop.probes.train import train
from lynxstop.recordings.storage import Recording
from lynxstop.workflows.make_bundle import make_bundle

recorded, out = Recording.open(sys.argv[1]), Path(sys.argv[2])
trained = train(recorded)
for line in sorted(trained.table, key=lambda line: -line.auc)[:5]:
    print(f"layers {line.layers}, C {line.C:g}: AUC {line.auc:.3f}")
print(f"chosen {trained.chosen.layers}; out of fold {trained.auc:.3f}")
bundle = make_bundle(recorded, trained, out, name=out.name)
print(f"next: lynxstop calibrate {bundle.path} CALIBRATION_DATA --risk 0.05")
