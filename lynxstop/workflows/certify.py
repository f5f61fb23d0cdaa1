"""From a model and problems to a certified bundle: every step is the function of an existing command."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.fingerprint import fingerprint
from lynxstop.artifacts.recipe import Recipe
from lynxstop.calibration import ledger
from lynxstop.calibration.losses import recorded_loss
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import Calibration
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.partial import count_kept
from lynxstop.collect.runner import collect
from lynxstop.collect.source import Source
from lynxstop.collect.sources import folder_of, load_source
from lynxstop.core.types import Sampling
from lynxstop.errors import DataError
from lynxstop.notebook import table_html
from lynxstop.probes.target import Target
from lynxstop.probes.train import TrainedProbe, require_both_outcomes
from lynxstop.recordings.meta_file import META, read_meta
from lynxstop.recordings.problems import Problem, load_problems
from lynxstop.recordings.prompts import prompt_digest
from lynxstop.recordings.schema import Meta
from lynxstop.recordings.storage import Recording
from lynxstop.recordings.store import store_at
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install
from lynxstop.workflows.certify_plan import (
    SHARES,
    Estimate,
    Outlook,
    outlook,
    require_enough,
    sizes,
    split_problems,
)
from lynxstop.workflows.replay_levels import check_unseen, replay_levels
from lynxstop.workflows.settle_recipe import settle_recipe
from lynxstop.workflows.train_bundle import train_bundle
from lynxstop.workflows.train_rule import TrainedRule

RISKS = (0.05, 0.10)
FIRST = 16
"""Training problems that are recorded first; what the rest takes is estimated from them."""


@dataclass(frozen=True, slots=True)
class CertifyOptions:
    """What is to be certified, and how traces are recorded.

    Parameters
    ----------
    risks : sequence of float
        Levels; those that so few problems cannot certify are left out.
    confidence : float
    loss : str
        "disagree" needs no gold answers; "harm" and "wrong" do.
    collect : CollectOptions
        Engine, seed, grader. `samples` stays 1 and every cue is recorded.

    Raises
    ------
    ConfigError
        When there is no such loss.
    """

    risks: Sequence[float] = RISKS
    confidence: float = 0.95
    loss: str = "disagree"
    collect: CollectOptions = field(default_factory=CollectOptions)

    def __post_init__(self) -> None:
        recorded_loss(self.loss, selective=False)

    @property
    def target(self) -> Target:
        """What the probe foresees."""
        return "right" if self.loss == "wrong" else "agrees"


@dataclass(frozen=True, slots=True, eq=False)
class CertifiedModel:
    """What `certify` returns.

    Attributes
    ----------
    model : str
    bundle : Bundle
        With the certified levels.
    trained : TrainedProbe or TrainedRule
    outlook : Outlook
        What so many problems could certify.
    calibration : Calibration
    problems : dict
        Part to number of problems.
    held_out : list of dict
        The levels replayed on problems that neither the probe nor the certificate has seen, as
        `lynxstop.workflows.replay_levels.replay_levels` gives them; empty when there are none.
    tried : int
        Calibrations made on these problems, this one included: the promise holds for one.
    serve : str or None
        Command that serves the model with the bundle; None when no level exits.
    """

    model: str
    bundle: Bundle
    trained: TrainedProbe | TrainedRule
    outlook: Outlook
    calibration: Calibration
    problems: dict[str, int]
    held_out: list[dict[str, Any]]
    tried: int
    serve: str | None

    @property
    def more(self) -> int | None:
        """Problems to add to the file, for what refused levels miss; None where that is unknown."""
        missing = [one.missing for one in self.calibration.refused if one.missing is not None]
        return math.ceil(max(missing) / SHARES["calibration"]) if missing else None

    def _repr_html_(self) -> str:
        rows = [
            (
                f"{100 * row['risk']:g}%",
                f"{row['exits']} of {row['n_problems']}",
                f"{row['disagree']} of {row['n_problems']}",
                f"{row['saved']:.1%}",
            )
            for row in self.held_out
        ]
        headers = ("risk", "stopped early", "answers that differ", "tokens saved")
        title = f"{self.bundle.policy.name} on held-out problems"
        return table_html(title, headers, rows, self.serve or "") + self.calibration._repr_html_()

    def report(self) -> dict[str, Any]:
        """All but arrays, ready for JSON."""
        return {
            "bundle": str(self.bundle.path),
            "problems": self.problems,
            "chances": {str(risk): dict(chances) for risk, chances in self.outlook.chances.items()},
            "too_few_for": list(self.outlook.dropped),
            "auc": self.trained.auc,
            "levels": self.calibration.rows(),
            "held_out": self.held_out,
            "more": self.more,
            "tried": self.tried,
            "serve": self.serve,
        }


Told = Callable[[str], None]
Ask = Callable[[Estimate], None]


def certify(
    model: str | Path,
    problems: str | Path | Sequence[Problem],
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    options: CertifyOptions | None = None,
    tell: Told = lambda _: None,
    ask: Ask = lambda _: None,
    console: Console | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CertifiedModel:
    """Record traces, train, certify, and replay on problems held out; what is done is not done again.

    Parameters
    ----------
    model : str or Path
        A folder, or a name that the engine knows.
    problems : path or sequence of Problem
        They are split by their prompts; gold answers are optional for the loss "disagree".
    out : path
        Folder: `recipe.toml`, `recorded/train`, `recorded/calibration`, `recorded/test` and `bundle`. The
        same call goes on where it was interrupted, and problems that were added to the file are recorded
        beside the others.
    recipe : Recipe, optional
        How the model is watched; by default that of an earlier call, else one drafted from its files.
    options : CertifyOptions, optional
    tell : callable
        Hears a sentence at the beginning of each step.
    ask : callable
        Hears what is left to be recorded before it is; raises to stop.
    console : Console, optional
        Where to show the progress of recording.
    progress : callable, optional
        Called with the numbers of finished and of all steps of training.

    Returns
    -------
    CertifiedModel
        A level that nothing qualified for never exits.

    Raises
    ------
    DataError
        When there are too few problems for any of the levels; says what so many can certify. When the loss
        needs gold answers, and there are none. When `out` has recordings of other problems.
    LynxstopError
        As the steps do.
    """
    options, folder = options or CertifyOptions(), Path(out)
    CalibrationOptions(risks=options.risks, confidence=options.confidence, loss=options.loss)
    asked = load_problems(problems) if isinstance(problems, (str, Path)) else list(problems)
    parts = split_problems(asked)
    if repeated := len(asked) - sum(map(len, parts.values())):
        tell(f"{repeated} problems repeat the prompt of another, and are left out.")
    found = outlook(len(parts["calibration"]), options.risks, options.confidence)
    require_enough(parts, found)
    tell(", ".join(f"{count:,} problems for {name}" for name, count in sizes(parts).items()) + ".")
    for sentence in found.sentences():
        tell(sentence)
    name = str(model)
    if options.loss != "disagree" and not any(problem.answer for problem in asked):
        raise DataError(
            f"The loss {options.loss!r} needs gold answers, and none of the problems has one.",
            hint="Name their column with --answer-column, or certify the loss disagree.",
        )
    if options.collect.engine != "openai":
        model = folder_of(name)
        fingerprint(Path(model))
    base_url = options.collect.arguments.get("base_url")
    _refuse_others(folder / "recorded", parts)
    settings = settle_recipe(folder, name, model, recipe, tell, base_url)
    with closing(load_source(options.collect.engine, str(model), settings, options.collect)) as source:
        data = _record(source, parts, folder / "recorded", settings, options, tell, ask, console)
    tell("Training.")
    bundle, trained = train_bundle(
        data["train"],
        folder / "bundle",
        Path(name).resolve().name if Path(name).is_dir() else name,
        target=options.target,
        kind=settings.probe.kind,
        guards=settings.guards.model_dump(exclude={"budget"}),
        seed=options.collect.seed,
        progress=progress,
    )
    tell("Certifying.")
    chosen = CalibrationOptions(risks=found.risks, confidence=options.confidence, loss=options.loss)
    calibration = calibrate_bundle(bundle, data["calibration"], chosen)
    tried = ledger.record(
        folder / "recorded" / "calibration" / ledger.NAME, ledger.attempt(calibration.evidence, chosen)
    )
    bundle = install(bundle, calibration)
    held_out: list[dict[str, Any]] = []
    if "test" in data:
        tell("Replaying on held-out problems.")
        check_unseen(bundle, data["test"])
        held_out = replay_levels(bundle, data["test"])
    return CertifiedModel(
        model=str(model),
        bundle=bundle,
        trained=trained,
        outlook=found,
        calibration=calibration,
        problems=sizes(parts),
        held_out=held_out,
        tried=tried,
        serve=_serving(model, bundle, options.collect),
    )


def _refuse_others(folder: Path, parts: dict[str, list[Problem]]) -> None:
    """Refuse recordings of problems that are not given: a certificate would be about those, too."""
    recorded = {
        prompt
        for name in parts
        if (meta := _meta(folder / name)) is not None and meta.finished
        for prompt in Recording.open(folder / name, verify=False).prompts
    }
    given = {prompt_digest(one.prompt, one.tools) for problems in parts.values() for one in problems}
    if others := len(recorded - given):
        raise DataError(
            f"{folder} has recordings of {others} problems that are not among those given, and the "
            "certificate would be about them, too.",
            hint="Give them as well, or name another folder with --out.",
        )


def _record(
    source: Source,
    parts: dict[str, list[Problem]],
    folder: Path,
    recipe: Recipe,
    options: CertifyOptions,
    tell: Told,
    ask: Ask,
    console: Console | None,
) -> dict[str, Recording]:
    """Record the parts with one loaded model: the first few problems, then all, after asking."""
    sampling = Sampling(**recipe.sampling.model_dump(), seed=options.collect.seed)

    def run(name: str, problems: Sequence[Problem], append: bool) -> Recording:
        chosen = replace(options.collect, samples=1, max_cues=None, append=append)
        return collect(source, problems, folder / name, sampling, chosen, console=console)

    parts = {name: problems for name, problems in parts.items() if problems}
    first, pilot = parts["train"][:FIRST], folder / "pilot.json"
    before = _meta(folder / "train")
    if before is None or not (before.finished or before.appended):
        tell(f"Recording {len(first)} problems, to see what the others take.")
        started = time.monotonic()
        data = run("train", first, append=False)
        Estimate.measured(data, time.monotonic() - started).save(pilot)
    left = sum(map(len, parts.values())) - sum(_recorded(folder / name) for name in parts)
    if left > 0 and (measured := Estimate.load(pilot)):
        ask(measured.of(left))
    done = {}
    for name, problems in parts.items():
        tell(f"Recording {name}: {len(problems):,} problems.")
        before = _meta(folder / name)
        done[name] = run(
            name, problems, append=before is not None and (before.finished or before.appended != ())
        )
        if name == "train":
            require_both_outcomes(done[name], options.target)
    return done


def _meta(place: Path) -> Meta | None:
    store = store_at(place)
    return read_meta(store) if META in store.names() else None


def _recorded(place: Path) -> int:
    """Traces that are there, those that an interruption left too."""
    if (meta := _meta(place)) is None:
        return 0
    return sum(count_kept(store_at(place), part, meta.shard_size) for part in meta.instalments)


def _serving(model: str | Path, bundle: Bundle, options: CollectOptions) -> str | None:
    if bundle.policy.default_risk is None:
        return None
    words = ["lynxstop", "serve", str(model), "--bundle", str(bundle.path)]
    if options.engine == "openai":
        words = [
            "lynxstop",
            "proxy",
            "--upstream",
            options.arguments["base_url"],
            "--bundle",
            str(bundle.path),
        ]
    elif find_spec("vllm") is None:
        words = ["lynxstop", "run", str(model), str(bundle.path), "PROMPT"]
    return shlex.join(words)
