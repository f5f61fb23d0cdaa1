"""The options of a collection, from the command line to the shard."""

from __future__ import annotations

from dataclasses import dataclass

from lynxstop.collect.sources import SourceOptions
from lynxstop.errors import ConfigError
from lynxstop.grading.graders import MATH, grader_named
from lynxstop.grading.grading import Grader


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where actors run and what each of them takes.

    Parameters
    ----------
    address : str, optional
        Of a running cluster; "auto" for the one of this machine. A cluster of this machine alone is started
        when there is none.
    actors : int, optional
        Engines at once; as many as the cluster has room for by default.
    gpus_per_actor : float
    cpus_per_actor : float
    """

    address: str | None = None
    actors: int | None = None
    gpus_per_actor: float = 0
    cpus_per_actor: float = 1

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise ConfigError("At least one actor is needed.")
        if (
            min(self.gpus_per_actor, self.cpus_per_actor) < 0
            or self.gpus_per_actor + self.cpus_per_actor <= 0
        ):
            raise ConfigError("An actor takes some share of a CPU or a GPU.")


@dataclass(frozen=True, slots=True)
class CollectOptions(SourceOptions):
    """How to record, and with which engine.

    `lynxstop.collect.recording.record` reads all options. `lynxstop.collect.runner.collect` is given a loaded
    model and its sampling, and reads those from `samples` on.

    Parameters
    ----------
    device, dtype, batch_size, arguments
        How the engine is to run: see `SourceOptions`.
    engine : str
        A name in `lynxstop.collect.sources.ENGINES`.
    seed : int
        Of all sampling.
    cluster : Cluster, optional
        Collect with many engines on a Ray cluster instead of one in this process.
    samples : int
        Traces per problem.
    max_cues : int, optional
        Force exits at no more than this many cues of a trace, spread evenly: cheaper training data. For
        calibration every cue is needed.
    shard_size : int
        Traces per shard: what is held in memory.
    keep_every : float
        Seconds between two savings of the finished traces of an unfinished shard: the work that an
        interruption may cost. 0 saves each trace at once, infinity only whole shards.
    grader : str or callable
        Checks answers: a name that `lynxstop.grading.graders.grader_named` knows, or a function from a text
        and a gold answer to a `lynxstop.grading.grading.Grade`, importable wherever traces are recorded.
    append : bool
        Add to a finished data set the traces that are asked for and not there: new problems, or more samples.
    resume : bool
        Go on with an unfinished collection of the same settings instead of refusing it.

    Raises
    ------
    ConfigError
        On impossible counts, or when there is no such grader.
    """

    engine: str = "transformers"
    seed: int = 0
    cluster: Cluster | None = None
    samples: int = 1
    max_cues: int | None = None
    shard_size: int = 256
    keep_every: float = 30.0
    grader: str | Grader = MATH
    append: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        if min(self.samples, self.shard_size, 1 if self.max_cues is None else self.max_cues) < 1:
            raise ConfigError("samples, max_cues and shard_size are at least 1.")
        if not self.keep_every >= 0:
            raise ConfigError("keep_every is a number of seconds, at least 0.")
        if isinstance(self.grader, str):
            grader_named(self.grader)

    @property
    def grade(self) -> Grader:
        """The function that checks answers."""
        return grader_named(self.grader) if isinstance(self.grader, str) else self.grader
