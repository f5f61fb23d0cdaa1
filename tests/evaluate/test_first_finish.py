"""First finish on data that grew: as many samples run as every problem has, whichever command added them."""

from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.evaluate.first_finish import first_finish
from lynxstop.recordings.storage import Recording
from lynxstop.replay.parts import parts_of
from tests.support.scripted import SAMPLING, ScriptedSource, problems


def grown(out, *steps):
    """Data of several commands: each asks for problems and samples, all but the first append."""
    for number, (asked, samples) in enumerate(steps):
        data = collect(
            ScriptedSource(), asked, out, SAMPLING, CollectOptions(samples=samples, append=number > 0)
        )
    return data


def raced(data):
    found = first_finish(data, parts_of(data), 0.4, 0.05)
    assert found is not None
    row, done = found
    row.pop("threshold")
    return row, [column.tolist() for column in (done.exits, done.full, done.net, done.gross, done.disagree)]


def test_samples_that_were_appended_run_too(scripted, tmp_path):
    # given the same traces, here recorded by two commands
    data = grown(tmp_path / "data", (problems(160), 1), (problems(160), 2))
    # then the race is the same
    assert raced(data) == raced(scripted)
    assert raced(data)[0]["needs"] == "2 samples"


def test_what_only_some_problems_have_more_of_does_not_run(scripted, tmp_path):
    # given three samples of some problems, two of the others
    data = grown(tmp_path / "data", (problems(60), 3), (problems(160)[60:], 2))
    # then the race is that of two samples each: problems come in the same order
    assert raced(data) == raced(scripted)
    assert data.samples == (2, 3)


def test_answers_are_compared_as_they_were_graded(scripted):
    # given the same answers, as if another grader had compared them
    def lost(name):
        data = Recording.open(scripted.path)
        data.meta = data.meta.model_copy(update={"grader": name})
        found = first_finish(data, parts_of(data), 0.4, 0.05)
        return found and found[1].disagree.sum()

    # then numbers are no letters of a choice, and a function is not run because a recording names it
    assert lost("math") == lost("text") == raced(scripted)[1][-1].count(True)
    assert lost("choice") > lost("math")
    assert lost("antigravity:fly") is None


def test_a_problem_with_one_sample_does_not_pass_for_one_that_agrees(tmp_path):
    data = grown(tmp_path / "data", (problems(40), 3), (problems(160)[40:], 1))
    assert first_finish(data, parts_of(data), 0.4, 0.05) is None
