"""A study of one model: certificates, all rules, transfer, wall-clock and flips, from one resumable call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.plain import plain
from lynxstop.artifacts.recipe import Recipe
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.recording import record
from lynxstop.errors import DataError, LynxstopError
from lynxstop.evaluate.compare import compare
from lynxstop.evaluate.report import as_json
from lynxstop.recordings.problems import Problem, digest_problems
from lynxstop.recordings.storage import Recording
from lynxstop.rules.plain import Budget
from lynxstop.rules.table import all_rules
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install
from lynxstop.workflows.certify import CertifiedModel, CertifyOptions, certify
from lynxstop.workflows.certify_plan import split_problems
from lynxstop.workflows.replay_levels import check_unseen
from lynxstop.workflows.train_bundle import train_bundle
from lynxstop_research import study_flips
from lynxstop_research.shift import Scored, scored, shift
from lynxstop_research.study_speed import equal_budget, speed
from lynxstop_research.suites import load_suite

RISKS = (0.01, 0.02, 0.05, 0.10)
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class StudyOptions:
    """How large a study is.

    Parameters
    ----------
    risks : sequence of float
        Levels to certify.
    confidence : float
    loss : str
    collect : CollectOptions
        Engine and seed; its `batch_size` is the fixed concurrency.
    transfers : sequence of str
        Suites, or files of problems, that the certificate is carried to.
    transfer_problems : int
        Of each: half to calibrate again, half to measure.
    timed, compared : int
        Problems for wall-clock, and for decisions over batch sizes and engines.
    batches : sequence of int
        Batch sizes that are compared with the fixed one.
    engines : sequence of str
        Further engines that are compared, at the fixed batch size.
    arguments : mapping
        Of those of them that take any.
    """

    risks: Sequence[float] = RISKS
    confidence: float = 0.95
    loss: str = "disagree"
    collect: CollectOptions = field(default_factory=CollectOptions)
    transfers: Sequence[str] = ()
    transfer_problems: int = 400
    timed: int = 64
    compared: int = 32
    batches: Sequence[int] = (1,)
    engines: Sequence[str] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Study:
    """What a study found.

    Attributes
    ----------
    model, source : str
        The model, and where its problems are from.
    problems : int
    options : StudyOptions
    made : CertifiedModel or None
        None when nothing could be certified.
    rules : list of dict
        By level: `risk`, and what `lynxstop evaluate --json` prints.
    transfers, speed, flips : list of dict
    failed : dict
        Part to why it is missing.
    """

    model: str
    source: str
    problems: int
    options: StudyOptions
    made: CertifiedModel | None = None
    rules: Rows = field(default_factory=list)
    transfers: Rows = field(default_factory=list)
    speed: Rows = field(default_factory=list)
    flips: Rows = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        parts = {name: getattr(self, name) for name in ("rules", "transfers", "speed", "flips", "failed")}
        certified = None if self.made is None else self.made.report()
        return {"model": self.model, "suite": self.source, "certified": certified, **parts}


def study(
    model: str,
    suite: str,
    out: str | Path,
    *,
    options: StudyOptions | None = None,
    recipe: Recipe | None = None,
    limit: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
    console: Console | None = None,
    **certifying: Any,
) -> Study:
    """Study a model on a suite; what is done is not done again.

    A part that cannot be had is left out, and the study says why: random weights certify nothing, and still
    have a speed.

    Parameters
    ----------
    model : str
        A folder, or a name that the engine knows.
    suite : str
        A name in `lynxstop_research.suites.SUITES`, or a file of problems.
    out : path
        Folder; the same call goes on there. Recordings and the bundle are those of `lynxstop certify`.
    options : StudyOptions, optional
    recipe : Recipe, optional
    limit : int, optional
        Take only the first problems of the suite.
    tell, console : optional
        Hear of each step, and show the progress of recording.
    certifying : optional
        `ask` and `progress` of `lynxstop.workflows.certify.certify`.

    Raises
    ------
    DataError
        When the problems cannot be read.
    ModelError
        When the model cannot be loaded.
    """
    options, folder = options or StudyOptions(), Path(out)
    problems, source, grader = load_suite(suite)
    problems = problems[:limit]
    collect = options.collect if grader is None else replace(options.collect, grader=grader)
    options = replace(options, collect=collect)
    found = Study(model, source, len(problems), options)
    wanted = CertifyOptions(options.risks, options.confidence, options.loss, collect)
    try:
        found.made = certify(
            model, problems, folder, recipe=recipe, options=wanted, tell=tell, console=console, **certifying
        )
    except DataError as error:
        found.failed["certificates"] = str(error)
        tell(f"No certificate: {error}")
    work = _Work(found, folder, problems, recipe, tell, console)
    parts: list[tuple[str, Callable[[], Rows]]] = [("speed", work.speed), ("flips", work.flips)]
    if found.made is not None:
        parts = [("rules", work.rules), ("transfers", work.transfers), *parts]
    for name, make in parts:
        try:
            setattr(found, name, work.kept(name, make))
        except LynxstopError as error:
            found.failed[name] = str(error)
            tell(f"{name.capitalize()} left out: {error}")
    return found


class _Work:
    """The parts after the certificate, each kept as JSON once it is done."""

    def __init__(
        self,
        found: Study,
        folder: Path,
        problems: list[Problem],
        recipe: Recipe | None,
        tell: Callable[[str], None],
        console: Console | None,
    ) -> None:
        self._found, self._folder, self._tell, self._console = found, folder, tell, console
        self._options, self._problems = found.options, problems
        self._unseen = split_problems(problems)["test"] or problems
        self._bundle: Bundle | None = None if found.made is None else found.made.bundle
        written = folder / "recipe.toml"
        self._recipe = recipe or (Recipe.load(written) if written.is_file() else Recipe())

    def kept(self, name: str, make: Callable[[], Rows]) -> Rows:
        """Return a part of an earlier call on the same things, or make it."""
        policy = None if self._bundle is None else self._bundle.policy
        levels = None if policy is None else [(one.risk, one.threshold) for one in policy.pooled]
        probe = None if policy is None else (policy.probe_sha256, policy.rule and policy.rule.model_dump())
        asked = [
            asdict(self._options),
            levels,
            probe,
            digest_problems(self._problems),
            self._recipe.model_dump(mode="json"),
        ]
        text = json.dumps(asked, sort_keys=True, default=str)
        key, path = hashlib.sha256(text.encode()).hexdigest(), self._folder / "parts" / f"{name}.json"
        if path.is_file() and (known := json.loads(path.read_text()))["key"] == key:
            rows: Rows = known["rows"]
            return rows
        self._tell(f"Measuring: {name}.")
        rows = json.loads(json.dumps(plain(make())))
        atomic.write_text(path, json.dumps({"key": key, "rows": rows}, indent=1) + "\n")
        return rows

    def rules(self) -> Rows:
        """Every rule at every level within reach, on the calibration problems, split in three."""
        made = self._found.made
        assert made is not None
        data = Recording.open(self._folder / "recorded" / "calibration")
        chosen = [rule for rule in all_rules().values() if data.layers or "hidden" not in rule.needs]
        policy, probe = made.bundle.policy.stop_policy(), made.bundle.probe
        options = self._options
        return [
            {
                "risk": risk,
                **json.loads(
                    as_json(
                        compare(
                            data,
                            chosen,
                            probe=probe,
                            policy=policy,
                            risk=risk,
                            confidence=options.confidence,
                            loss=options.loss,
                            seed=options.collect.seed,
                        )
                    )
                ),
            }
            for risk in made.outlook.risks
        ]

    def transfers(self) -> Rows:
        """Serve every level elsewhere, watch it, and calibrate again there."""
        bundle = self._bundle
        assert bundle is not None
        levels = [level for level in bundle.policy.pooled if level.threshold < np.inf]
        if not levels:
            raise DataError("No level exits, so there is nothing to carry over.")
        reference = self._scored(Recording.open(self._folder / "recorded" / "calibration"))
        rows = []
        for name in self._options.transfers:
            problems, source, grader = load_suite(name)
            problems = problems[: self._options.transfer_problems]
            if len(problems) < 2:
                raise DataError(f"{name} has too few problems.")
            half, place = len(problems) // 2, self._folder / "transfer" / Path(name).stem
            parts = {"calibration": problems[:half], "test": problems[half:]}
            here = {part: self._recorded(place / part, some, grader=grader) for part, some in parts.items()}
            for data in here.values():
                check_unseen(bundle, data)
            traces = {part: self._scored(data) for part, data in here.items()}
            for level in levels:
                line = shift(
                    Path(self._found.source).stem,
                    Path(name).stem,
                    threshold=level.threshold,
                    risk=level.risk,
                    reference=reference,
                    **traces,
                )
                rows.append(asdict(line) | {"risk": level.risk, "suite": source})
        return rows

    def speed(self) -> Rows:
        """Wall-clock at the fixed concurrency."""
        bundle, chosen = self._bundle, self._unseen[: self._options.timed]
        options = self._options.collect
        place = self._folder / "recorded" / "calibration"
        if bundle is not None:
            traces = self._scored(Recording.open(place))
            levels = [one.threshold for one in bundle.policy.pooled if one.threshold < np.inf]
            spent = [float(traces.table.at(traces.scores, one).gross.sum()) for one in levels]
            budgets = [equal_budget(traces.table, one) for one in spent]
        else:
            most = self._recipe.guards.budget or self._recipe.sampling.max_tokens
            budgets = [most // 2, most // 4]
        budgets = [one for one in dict.fromkeys(budgets) if one > 0]
        rival = self._certified_budget()
        return speed(self._found.model, self._recipe, bundle, chosen, budgets, options, rival)

    def _certified_budget(self) -> Bundle | None:
        """Certify a fixed budget at the same levels on the same problems; None without certificates."""
        made, recorded, options = self._found.made, self._folder / "recorded", self._options
        if made is None:
            return None
        guards = self._recipe.guards
        bundle, _ = train_bundle(
            Recording.open(recorded / "train"),
            self._folder / "budget",
            "A fixed budget",
            rule=Budget.name,
            min_tokens=guards.min_tokens,
            cooldown=guards.cooldown,
            stride=guards.stride,
            max_points=guards.max_points,
            seed=options.collect.seed,
        )
        wanted = CalibrationOptions(
            risks=made.outlook.risks, confidence=options.confidence, loss=options.loss
        )
        calibration = Recording.open(recorded / "calibration")
        return install(bundle, calibrate_bundle(bundle, calibration, wanted))

    def flips(self) -> Rows:
        """Record the same requests with other batch sizes and engines, and compare."""
        chosen, options = self._unseen[: self._options.compared], self._options
        usual = (options.collect.engine, options.collect.batch_size)
        others: list[tuple[str, int | None]] = [
            (usual[0], batch) for batch in options.batches if batch != usual[1]
        ]
        others += [(engine, usual[1]) for engine in options.engines if engine != usual[0]]

        def made(engine: str, batch: int | None) -> Recording:
            place = self._folder / "flips" / f"{engine}-{batch or 'default'}"
            return self._recorded(place, chosen, engine=engine, batch_size=batch)

        reference = made(*usual)
        return [
            {"engine": engine, "batch": batch, "against": list(usual)}
            | study_flips.compare(reference, made(engine, batch), self._bundle).row()
            for engine, batch in others
        ]

    def _recorded(self, place: Path, problems: Sequence[Problem], **changed: Any) -> Recording:
        known = {name: value for name, value in changed.items() if value is not None}
        options = replace(self._options.collect, **known)
        if options.engine != self._options.collect.engine:
            given = {} if options.engine == "transformers" else self._options.arguments
            options = replace(options, arguments=given, device=None)
        record(self._found.model, problems, place, self._recipe, options, console=self._console)
        return Recording.open(place)

    def _scored(self, data: Recording) -> Scored:
        assert self._bundle is not None
        return scored(data, self._bundle)
