"""Measures every requirement on a trained model: ``python -m lynxstop_research.reasoner.measure``."""

import argparse
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoTokenizer, Qwen3ForCausalLM

from lynxstop.core.first_exit import exit_steps, first_exits
from lynxstop.demo.problems import GeneratedProblem, draw
from lynxstop_research.reasoner.sampling import CueRecord, Sampled, Sampler
from lynxstop_research.reasoner.traces import way_back

DATA = Path(__file__).resolve().parents[2] / "data" / "reasoner"
Values = NDArray[np.float64]
Report = dict[str, object]

# Rivals that read this task's own wording; nobody has one for a real model.
_OWN_WORDING = ("regular expression", "comparison", "words")


def dynamics(traces: Sequence[Sampled]) -> Report:
    """Return accuracy, lengths and how answers move along the traces."""
    easy = [t for t in traces if t.problem.difficulty <= 3]
    hard = [t for t in traces if t.problem.difficulty > 3]
    cues = [cue for t in traces for cue in t.cues]
    lengths = [t.tokens for t in traces]
    counts = [len(t.cues) for t in traces]
    return {
        "problems": len(traces),
        "cues": len(cues),
        "unfinished": _mean(t.answer is None for t in traces),
        "easy": _accuracies(easy),
        "hard": _accuracies(hard),
        "all": _accuracies(traces),
        "families": {
            family: _accuracies([t for t in traces if t.problem.family == family])
            for family in sorted({t.problem.family for t in traces})
        },
        "cues_percentiles": _percentiles(counts),
        "cues_3_to_15": _mean(3 <= n <= 15 for n in counts),
        "tokens_percentiles": _percentiles(lengths),
        "tokens_80_to_600": _mean(80 <= n <= 600 for n in lengths),
        "repaired": _mean(_right(t) and not _stands(t)[0] for t in traces if t.cues),
        "damaged": _mean(not _right(t) and any(_stands(t)) for t in traces),
        "damaged_from_last_cue": _mean(not _right(t) and any(_stands(t)[-1:]) for t in traces),
        "right_to_wrong_steps": _mean(bool(a and not b) for t in traces for a, b in pairwise(_stands(t))),
        "parsed_exits": _mean(cue.answer is not None for cue in cues),
        "right_exits": _mean(right for t in traces for right in _stands(t)),
        "confidence_median": float(np.median([cue.confidence for cue in cues])),
        "oracle_saves": _saved(traces, [_first(_stands(t)) for t in traces]),
    }


def signals(traces: Sequence[Sampled]) -> Report:
    """Return the AUC for "the exit answer is right" of the probe and of each rival."""
    rows = [(t, i) for t in traces for i in range(len(t.cues))]
    right = np.array([_stands(t)[i] for t, i in rows])
    groups = np.array([index for index, t in enumerate(traces) for _ in t.cues])
    hidden = np.stack([t.cues[i].hidden for t, i in rows]).astype(np.float64)
    rivals: dict[str, Values] = {
        "entropy": _column([t.cues[i].entropy for t, i in rows]),
        "position": _column([t.cues[i].position for t, i in rows]),
        "cue count": _column([i for _, i in rows]),
        "run length": _column([_run_length(t.cues, i) for t, i in rows]),
        "lowest log-probability": _column([t.cues[i].lowest for t, i in rows]),
        "trial confidence": _column([t.cues[i].confidence for t, i in rows]),
        "margin": _column([t.cues[i].margin for t, i in rows]),
        "regular expression": _column([" ok." in t.cues[i].text for t, i in rows]),
        "comparison": _column([_compared(t.problem, t.cues[i]) for t, i in rows]),
    }
    rivals["words"] = out_of_fold(_words([t.cues[i].text for t, i in rows]), right, groups)
    layers = [out_of_fold(hidden[:, layer], right, groups) for layer in range(hidden.shape[1])]
    aucs = [round(float(roc_auc_score(right, scores)), 4) for scores in layers]
    best = int(np.argmax(aucs))
    together = np.column_stack([v for k, v in rivals.items() if k not in _OWN_WORDING])
    return {
        "layers": aucs,
        "best_layer": best,
        "rivals": {name: _auc(right, values) for name, values in rivals.items()},
        "rivals_together": _auc(right, out_of_fold(together, right, groups)),
        "hard_half": _on_hard(rows, right, layers[best], rivals),
        "first_exit": {
            "probe": first_exit(traces, layers[best]),
            **{name: first_exit(traces, _as_right(values, right)) for name, values in rivals.items()},
        },
    }


def _compared(problem: GeneratedProblem, cue: CueRecord) -> bool:
    """Tell whether the last check ended where it should, by a parser that knows the task."""
    value = re.findall(r" gives (\d+)", cue.text)
    if not value or cue.answer is None:
        return False
    try:
        return int(value[-1]) == way_back(problem, cue.answer)[2]
    except (ValueError, IndexError):  # an answer of another family
        return False


def _words(texts: Sequence[str]) -> Values:
    """Return how often each word stands in each text, shape ``(texts, words)``."""
    return np.asarray(CountVectorizer(token_pattern=r"\S+", min_df=5).fit_transform(texts).toarray(), float)


def _as_right(scores: Values, right: NDArray[np.bool_]) -> Values:
    """Return the scores in the direction in which higher means right."""
    return scores if roc_auc_score(right, scores) >= 0.5 else -scores


def out_of_fold(features: Values, right: NDArray[np.bool_], groups: NDArray[np.int64]) -> Values:
    """Return scores of a standardised logistic regression, folds split by problem."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    scores = cross_val_predict(
        model, features, right, groups=groups, cv=GroupKFold(5), method="decision_function"
    )
    return np.asarray(scores, dtype=np.float64)


def first_exit(traces: Sequence[Sampled], scores: Values, level: float = 0.05) -> Report:
    """Stop at the first cue above a threshold that keeps `level` on the other half."""
    counts = [len(t.cues) for t in traces]
    found = exit_steps(np.repeat(np.arange(len(traces)), counts), scores)
    differs = np.array([cue.answer != t.answer for t in traces for cue in t.cues], bool)
    order = np.random.default_rng(0).permutation(len(traces))
    events = np.full(len(traces), -1)
    for half, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        chosen = np.inf
        for threshold in np.quantile(scores, np.linspace(0.99, 0, 100)):
            taken = first_exits(found, len(traces), threshold)[half]
            if differs[taken[taken >= 0]].sum() > level * len(half):
                break
            chosen = threshold
        events[other] = first_exits(found, len(traces), chosen)[other]
    starts = np.cumsum(counts) - counts
    stops = [None if event < 0 else int(event - start) for event, start in zip(events, starts, strict=True)]
    return {
        "saves": _saved(traces, stops),
        "disagrees": _mean(_disagrees(t, s) for t, s in zip(traces, stops, strict=True)),
    }


def _on_hard(
    rows: Sequence[tuple[Sampled, int]],
    right: NDArray[np.bool_],
    probe: Values,
    rivals: dict[str, Values],
) -> Report:
    hard = np.array([t.problem.difficulty > 3 for t, _ in rows])
    scores = {"probe": probe, **rivals}
    return {name: _auc(right[hard], values[hard]) for name, values in scores.items()}


def _accuracies(traces: Sequence[Sampled]) -> Report:
    return {
        "first_exit": _mean(any(_stands(t)[:1]) for t in traces),
        "second_exit": _mean(any(_stands(t)[1:2]) for t in traces),
        "full": _mean(_right(t) for t in traces),
    }


def _stands(trace: Sampled) -> list[bool]:
    return [cue.answer == trace.problem.answer for cue in trace.cues]


def _right(trace: Sampled) -> bool:
    return trace.answer == trace.problem.answer


def _first(flags: Sequence[bool] | NDArray[np.bool_]) -> int | None:
    return next((i for i, flag in enumerate(flags) if flag), None)


def _disagrees(trace: Sampled, stop: int | None) -> bool:
    return stop is not None and trace.cues[stop].answer != trace.answer


def _saved(traces: Sequence[Sampled], stops: Sequence[int | None]) -> float:
    kept = [t.tokens if s is None else t.cues[s].position for t, s in zip(traces, stops, strict=True)]
    return round(1 - sum(kept) / sum(t.tokens for t in traces), 4)


def _run_length(cues: Sequence[CueRecord], index: int) -> int:
    length = 1
    while length <= index and cues[index - length].answer == cues[index].answer:
        length += 1
    return length


def _auc(right: NDArray[np.bool_], scores: Values) -> float:
    auc = float(roc_auc_score(right, scores))
    return round(max(auc, 1 - auc), 4)


def _column(values: Sequence[float | bool]) -> Values:
    return np.asarray(values, dtype=np.float64)


def _mean(values: object) -> float:
    return round(float(np.mean(list(values))), 4)  # type: ignore[call-overload]


def _percentiles(values: Sequence[int]) -> dict[str, float]:
    return {str(p): float(np.percentile(values, p)) for p in (0, 1, 5, 50, 95, 99, 100)}


def measure(folder: Path, problems: int, temperature: float, hard: bool = False) -> Report:
    """Sample fresh problems and return all measurements."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    drawn = draw(problems, 11, split="fresh", hard=hard)
    traces = Sampler(model, tokenizer, temperature).run(drawn)
    return {"temperature": temperature, **dynamics(traces), **signals(traces)}


def measure_all(folder: Path, temperature: float = 0.9) -> None:
    """Measure on usual problems and on the shift level, and write ``measured.json``."""
    report = {
        "usual": measure(folder, 1000, temperature),
        "shift": measure(folder, 300, temperature, hard=True),
    }
    text = json.dumps(report, indent=1) + "\n"
    (folder / "measured.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Measure and print, and write `--out` if given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DATA)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--hard", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = measure(arguments.model, arguments.problems, arguments.temperature, hard=arguments.hard)
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
