"""Search with scikit-learn; folds keep problems whole.

python examples/grid_search.py recorded probe.safetensors
"""

import sys

from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

from lynxstop.probes.data import load
from lynxstop.probes.export import export_probe
from lynxstop.probes.trainer import ProbeTrainer

points = load(sys.argv[1])
grid = {"C": [1e-4, 1e-3, 1e-2], "class_weight": [None, "balanced"]}
search = GridSearchCV(ProbeTrainer(), grid, scoring="roc_auc", cv=StratifiedGroupKFold(5))
search.fit(points.X, points.y, groups=points.groups)
print(f"best {search.best_params_}: AUC {search.best_score_:.3f}")
export_probe(search, points.layers).save(sys.argv[2])
