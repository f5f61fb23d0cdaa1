"""Start a data set, take one up again, or add to a finished one: what there is to record is settled here."""

from __future__ import annotations

from collections.abc import Sequence

from lynxstop.artifacts.provenance import provenance
from lynxstop.collect.source import Source
from lynxstop.collect.work import Job, Order, Work
from lynxstop.errors import ConfigError, DataError, StepError
from lynxstop.grading.graders import name_of
from lynxstop.recordings import shards
from lynxstop.recordings.meta_file import META, read_meta, write_meta
from lynxstop.recordings.problems import Problem, digest_problems
from lynxstop.recordings.schema import TRACES, Appended, Instalment, Meta
from lynxstop.recordings.store import Store

_ASKED = {"problems", "problems_sha256", "samples"}


def check_order(order: Order) -> None:
    """Refuse what cannot be carried out, before a model is loaded.

    Raises
    ------
    DataError
        When there are no problems, or two of one id.
    """
    if not order.problems:
        raise DataError("There are no problems to collect traces for.")
    if len({problem.id for problem in order.problems}) < len(order.problems):
        raise DataError("A problem id occurs twice.", hint="Every problem needs an id of its own.")


def describe(source: Source, order: Order) -> Meta:
    """Describe a collection of this order with this model; the engine may record no layers.

    Raises
    ------
    ConfigError
        When both the recipe's guards and `max_cues` leave out decision points.
    """
    engine, setup, sampling = source.engine, source.setup, order.sampling
    if engine.policy.guarded and order.options.max_cues is not None:
        raise ConfigError(
            "The recipe's [guards] choose the decision points already, so --max-cues would leave out others.",
            hint="Leave --max-cues out; the guards make data cheaper, and can be served.",
        )
    return Meta(
        fingerprint=source.fingerprint,
        engine=engine.id,
        dtype=source.dtype,
        cue_words=setup.cues.words,
        cue_paragraph=setup.cues.paragraph,
        think_open=setup.delimiters.open,
        think_close=setup.delimiters.close,
        exit_text=setup.exit_text,
        exit_ids=engine.policy.exit_ids,
        cut=setup.cut,
        layers=engine.layers,
        hidden=engine.width // max(len(engine.layers), 1),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        answer_tokens=sampling.answer_tokens,
        seed=sampling.seed,
        grader=name_of(order.options.grade),
        points=engine.policy.points,
        every=engine.policy.every,
        **engine.policy.guards,
        budget=engine.policy.budget,
        samples=order.options.samples,
        max_cues=order.options.max_cues,
        shard_size=order.options.shard_size,
        problems=len(order.problems),
        problems_sha256=digest_problems(order.problems),
        provenance=provenance(),
    )


def other_settings(before: Meta, asked: Meta, append: bool) -> list[str]:
    """Names of the settings that keep two recordings apart; an append may ask for other traces."""
    return [name for name in before.differences(asked) if not (append and name in _ASKED)]


def begin(store: Store, asked: Meta, order: Order) -> tuple[Meta, Work]:
    """Settle what is to be recorded; write it into meta.json, clear what an interruption left half-written.

    Returns
    -------
    Meta, Work
        The work is that of the last instalment; when the meta is finished there is none to do.

    Raises
    ------
    ConfigError
        When the place holds a recording of other settings, which are named; when another append was
        interrupted there; without `resume` when there is a recording at all.
    StepError
        When there is nothing, or nothing finished, to append to.
    DataError
        When there are shards without meta.json, or the append would change a problem.
    """
    append = order.options.append
    if META not in store.names():
        if append:
            raise StepError(f"There is no recorded data in {store} to append to.", hint="Leave --append out.")
        if shards.complete(store, range(asked.shards)):
            raise DataError(f"{store} holds shards without {META}.", hint="Collect into a new folder.")
        write_meta(store, asked)
        return asked, _work(asked, order, order.jobs())
    before = read_meta(store)
    if not order.options.resume:
        raise ConfigError(
            f"{store} holds a recording already.", hint="Resume it, or collect into a new folder."
        )
    if different := other_settings(before, asked, append):
        raise ConfigError(
            f"{store} was recorded with other settings: {', '.join(different)}.",
            hint="Give the same settings to finish it, or collect into a new folder.",
        )
    store.clear()
    if append:
        return _append(store, before, order)
    if before.appended and not before.finished:
        raise ConfigError(
            f"Something is being appended to {store}.", hint="Finish it with the same command and --append."
        )
    return before, _work(before, order, order.jobs())


def _append(store: Store, before: Meta, order: Order) -> tuple[Meta, Work]:
    """Add an instalment of the traces that are asked for and not there, or take the last one up again."""
    parts = before.instalments
    finished = before.finished
    if not finished and not before.appended:
        raise StepError(
            f"The collection in {store} is unfinished.", hint="Finish it first: run it without --append."
        )
    earlier = parts if finished else parts[:-1]
    recorded: set[tuple[str, int]] = set()
    digests = [before.problems_sha256, *(part.problems_sha256 for part in before.appended)]
    for part, digest in zip(earlier, digests, strict=False):
        rows = _recorded(store, part)
        _require_same(order.problems, list(dict.fromkeys(name for name, _ in rows)), digest)
        recorded |= set(rows)
    jobs = tuple(job for job in order.jobs() if (job.problem.id, job.sample) not in recorded)
    if not jobs:
        if finished:
            return before, _work(before, order, ())
        raise _another(store)
    problems = tuple(dict.fromkeys(job.problem.id for job in jobs))
    own = [problem for problem in order.problems if problem.id in set(problems)]
    entry = Appended(
        problems=len(own),
        problems_sha256=digest_problems(own),
        samples=order.options.samples,
        traces=len(jobs),
        provenance=provenance(),
    )
    if finished:
        after = before.model_copy(update={"appended": (*before.appended, entry)})
        write_meta(store, after)
        return after, _work(after, order, jobs)
    if entry.identity() != before.appended[-1].identity():
        raise _another(store)
    return before, _work(before, order, jobs)


def _another(store: Store) -> ConfigError:
    return ConfigError(
        f"Another append to {store} was interrupted.", hint="Finish it with the command that began it."
    )


def _recorded(store: Store, part: Instalment) -> list[tuple[str, int]]:
    """Problem and sample of the traces of an instalment, in order."""
    found: list[tuple[str, int]] = []
    for number in part.shards:
        table = shards.read_table(store, shards.names(number)[-1], TRACES, part.key, ["problem_id", "sample"])
        found.extend(zip(table["problem_id"].to_pylist(), table["sample"].to_pylist(), strict=True))
    return found


def _require_same(problems: Sequence[Problem], known: Sequence[str], digest: str) -> None:
    """Refuse a changed problem under a known id: all problems of an earlier command come again, or none."""
    given = {problem.id: problem for problem in problems}
    again = [given[name] for name in known if name in given]
    if again and digest_problems(again) != digest:
        raise DataError(
            f"The id {again[0].id!r} and others were recorded before, but not with the same problems.",
            hint="Give new problems new ids, or all the earlier problems, unchanged.",
        )


def _work(meta: Meta, order: Order, jobs: tuple[Job, ...]) -> Work:
    last = meta.instalments[-1]
    return Work(order, jobs, last.shards, last.key)
