"""A study of one model: certificates, all rules, transfer, wall-clock and flips, from one resumable call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.fingerprint import fingerprint
from lynxstop.artifacts.plain import plain
from lynxstop.artifacts.recipe import Recipe
from lynxstop.calibration.losses import LOSSES
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.recording import record
from lynxstop.collect.sources import folder_of
from lynxstop.errors import DataError, LynxstopError
from lynxstop.evaluate.compare import compare
from lynxstop.evaluate.report import as_json
from lynxstop.grading.graders import name_of
from lynxstop.grading.grading import Grader
from lynxstop.recordings.problems import Problem, digest_problems
from lynxstop.recordings.prompts import content_id, prompt_digest
from lynxstop.recordings.storage import Recording
from lynxstop.rules.plain import Budget
from lynxstop.rules.table import all_rules
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install
from lynxstop.workflows.certify import CertifiedModel, CertifyOptions, certify
from lynxstop.workflows.certify_plan import split_problems
from lynxstop.workflows.replay_levels import check_unseen
from lynxstop.workflows.train_bundle import train_bundle
from lynxstop_research import study_flips
from lynxstop_research.machine import machine
from lynxstop_research.shift import Scored, scored, shift
from lynxstop_research.study_speed import equal_budget, speed
from lynxstop_research.suites import SUITES, Commits, check_suite, load_suite, title_of

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
        Engine and seed; its `batch_size` is the fixed concurrency, its `grader` that of files of problems.
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
    model, suite, source : str
        The model, what its problems are called, and where they are from.
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
    suite: str
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
    have a speed. What was certified before is never left out: an error there ends the study.

    Parameters
    ----------
    model : str
        A folder, or a name that the engine knows.
    suite : str
        A name in `lynxstop_research.suites.SUITES`, or a file of problems.
    out : path
        Folder; the same call goes on there, with data sets at the same commits. Recordings and the bundle
        are those of `lynxstop certify`.
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
        When the problems, or a file of those that the certificate is carried to, cannot be read.
    ModelError
        When there is no such model.
    """
    options, folder = options or StudyOptions(), Path(out)
    for name in options.transfers:
        check_suite(name)
    of_files = options.collect.grader
    commits = Commits(folder / "revisions.json")
    problems, source, grader = load_suite(suite, commits)
    problems, identity = problems[:limit], _identity(model, options.collect.engine)
    collect = replace(options.collect, grader=grader or of_files)
    options = replace(options, collect=collect)
    found = Study(model, title_of(suite), source, len(problems), options)
    wanted = CertifyOptions(options.risks, options.confidence, options.loss, collect)
    try:
        found.made = certify(
            model, problems, folder, recipe=recipe, options=wanted, tell=tell, console=console, **certifying
        )
    except DataError as error:
        if any((folder / "bundle" / "certificates").glob("*.json")):
            raise
        found.failed["certificates"] = str(error)
        tell(f"No certificate: {error}")
    work = _Work(found, folder, problems, identity, of_files, recipe, commits, tell, console)
    parts: list[tuple[str, Rows, Callable[[], Rows], Sequence[Any]]] = [
        ("speed", found.speed, work.speed, [options.timed, options.compared, machine()]),
        (
            "flips",
            found.flips,
            work.flips,
            [options.compared, options.batches, options.engines, options.arguments],
        ),
    ]
    if found.made is not None:
        carried = [
            (f"transfer to {name}", found.transfers, partial(work.transfer, name), work.carried(name))
            for name in dict.fromkeys(options.transfers)
        ]
        parts = [("rules", found.rules, work.rules, []), *carried, *parts]
    for title, rows, make, own in parts:
        try:
            rows += work.kept(title, make, own)
        except LynxstopError as error:
            found.failed[title] = str(error)
            tell(f"Left out: {title}. {error}")
    return found


def _identity(model: str, engine: str) -> Any:
    """What tells this model from another; of a server only the name is known."""
    return model if engine == "openai" else fingerprint(folder_of(model)).model_dump()


def shuffled(problems: Sequence[Problem], known: Sequence[Problem] = ()) -> list[Problem]:
    """Return problems by the digest of their prompts, each prompt once, without those that are known.

    A file may be sorted, by year or difficulty: its first half is no sample of the second. Two files may
    number their problems alike: an id that a known problem has is made of the prompt.
    """
    there = {prompt_digest(one.prompt, one.tools) for one in known}
    taken = {one.id for one in known}
    first: dict[str, Problem] = {}
    for problem in problems:
        digest = prompt_digest(problem.prompt, problem.tools)
        if digest not in there:
            name = content_id(problem.prompt, problem.tools) if problem.id in taken else problem.id
            first.setdefault(digest, replace(problem, id=name))
    return [problem for _, problem in sorted(first.items())]


def _rows(path: Path, key: str) -> Rows | None:
    """Read what an earlier call kept; None when there is nothing, or it is damaged or of another study."""
    try:
        known = json.loads(path.read_text())
        rows: Rows | None = known["rows"] if known["key"] == key else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return rows


class _Work:
    """The parts after the certificate, each kept as JSON once it is done."""

    def __init__(
        self,
        found: Study,
        folder: Path,
        problems: list[Problem],
        identity: Any,
        of_files: str | Grader,
        recipe: Recipe | None,
        commits: Commits,
        tell: Callable[[str], None],
        console: Console | None,
    ) -> None:
        self._found, self._folder, self._tell, self._console = found, folder, tell, console
        self._options, self._problems, self._identity = found.options, problems, identity
        self._of_files, self._commits = of_files, commits
        self._unseen = split_problems(problems)["test"] or problems
        self._bundle: Bundle | None = None if found.made is None else found.made.bundle
        written = folder / "recipe.toml"
        self._recipe = recipe or (Recipe.load(written) if written.is_file() else Recipe())

    def carried(self, name: str) -> list[Any]:
        """What a transfer depends on alone: its size, and of a file the content and the grader."""
        size, file = self._options.transfer_problems, Path(name)
        if name in SUITES:
            return [size]
        grader = name_of(replace(self._options.collect, grader=self._of_files).grade)
        return [size, grader, atomic.sha256(file) if file.is_file() else None]

    def kept(self, name: str, make: Callable[[], Rows], own: Sequence[Any]) -> Rows:
        """Return a part of an earlier call on the same things, or make it.

        `own` are the options that no other part reads, and what else this part alone depends on.
        """
        options = self._options
        policy = None if self._bundle is None else self._bundle.policy
        levels = None if policy is None else [(one.risk, one.threshold) for one in policy.pooled]
        probe = None if policy is None else (policy.probe_sha256, policy.rule and policy.rule.model_dump())
        asked = [
            name,
            self._identity,
            asdict(options.collect) | {"grader": name_of(options.collect.grade)},
            [options.risks, options.confidence, options.loss, *own],
            levels,
            probe,
            digest_problems(self._problems),
            self._recipe.model_dump(mode="json"),
        ]
        text = json.dumps(asked, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()
        file = name if name.isalpha() else f"transfer-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        path = self._folder / "parts" / f"{file}.json"
        if (rows := _rows(path, key)) is not None:
            return rows
        self._tell(f"Measuring: {name}.")
        rows = list(json.loads(json.dumps(plain(make()))))
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

    def transfer(self, name: str) -> Rows:
        """Serve every level on another suite, watch it, and calibrate again there."""
        bundle = self._bundle
        assert bundle is not None
        levels = [level for level in bundle.policy.pooled if level.threshold < np.inf]
        if not levels:
            raise DataError("No level exits, so there is nothing to carry over.")
        problems, source, own = load_suite(name, self._commits)
        fresh = shuffled(problems, self._problems)
        if shared := len(shuffled(problems)) - len(fresh):
            self._tell(f"{shared} problems of {name} are in {self._found.suite}, too, and are left out.")
        problems = fresh[: self._options.transfer_problems]
        if len(problems) < 2:
            raise DataError(f"{name} has too few problems.")
        half = len(problems) // 2
        place = self._folder / "transfer" / f"{Path(name).stem}-{digest_problems(problems)[:8]}"
        parts = {"calibration": problems[:half], "test": problems[half:]}
        grader = own or self._of_files
        here = {part: self._recorded(place / part, some, grader=grader) for part, some in parts.items()}
        for data in here.values():
            check_unseen(bundle, data)
        reference = self._scored(Recording.open(self._folder / "recorded" / "calibration"))
        traces = {part: self._scored(data) for part, data in here.items()}
        rows = []
        for level in levels:
            line = shift(
                self._found.suite,
                title_of(name),
                threshold=level.threshold,
                risk=level.risk,
                reference=reference,
                loss=LOSSES[self._options.loss],
                confidence=self._options.confidence,
                **traces,
            )
            rows.append(asdict(line) | {"risk": level.risk, "loss": level.loss, "suite": source})
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
            longest = int(self._usual().traces(["thinking_tokens"])["thinking_tokens"].to_numpy().max())
            budgets = [longest // 2, longest // 4]
        budgets = [one for one in dict.fromkeys(budgets) if one > 0]
        rival = self._certified_budget()
        return speed(self._found.model, self._recipe, bundle, chosen, budgets, options, rival)

    def _certified_budget(self) -> Bundle | None:
        """Certify a fixed budget at the same levels on the same problems; None without certificates."""
        made, recorded, options = self._found.made, self._folder / "recorded", self._options
        if made is None:
            return None
        guards = self._recipe.guards.model_dump(exclude={"budget"})
        bundle, _ = train_bundle(
            Recording.open(recorded / "train"),
            self._folder / "budget",
            "A fixed budget",
            rule=Budget.name,
            guards=guards,
            seed=options.collect.seed,
        )
        wanted = CalibrationOptions(
            risks=made.outlook.risks, confidence=options.confidence, loss=options.loss
        )
        calibration = Recording.open(recorded / "calibration")
        return install(bundle, calibrate_bundle(bundle, calibration, wanted))

    def flips(self) -> Rows:
        """Record the same requests with other batch sizes and engines, and compare."""
        options = self._options
        usual = (options.collect.engine, options.collect.batch_size)
        others: list[tuple[str, int | None]] = [
            (usual[0], batch) for batch in options.batches if batch != usual[1]
        ]
        others += [(engine, usual[1]) for engine in options.engines if engine != usual[0]]

        reference = self._usual()
        return [
            {"engine": engine, "batch": batch, "against": list(usual)}
            | study_flips.compare(reference, self._compared(engine, batch), self._bundle).row()
            for engine, batch in others
        ]

    def _usual(self) -> Recording:
        return self._compared(self._options.collect.engine, self._options.collect.batch_size)

    def _compared(self, engine: str, batch: int | None) -> Recording:
        chosen = self._unseen[: self._options.compared]
        place = self._folder / "flips" / f"{engine}-{batch or 'default'}-{digest_problems(chosen)[:8]}"
        return self._recorded(place, chosen, engine=engine, batch_size=batch)

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
