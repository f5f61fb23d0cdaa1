"""Record and open a data set of wide features; run by path, prints the peak memory of both in MB."""

import json
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, os.getcwd())

import numpy as np

from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.recordings.storage import Recording
from tests.support.scripted import SAMPLING, ScriptedEngine, ScriptedSource, problems


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    out, traces = Path(sys.argv[1]), int(sys.argv[2])
    source = ScriptedSource(ScriptedEngine(width=2 * 4096))
    collect(source, problems(traces), out, SAMPLING, CollectOptions(shard_size=32))
    recorded = peak()
    data = Recording.open(out)
    cues = len(data.cues(["cue"]))
    rows = np.arange(cues) < 10
    assert data.features([1], rows).shape == (10, 4096)
    assert sum(len(tokens.ids) for tokens in data.tokens()) > 0
    size = sum(file.stat().st_size for file in out.iterdir()) / 2**20
    print(json.dumps({"recorded": recorded, "opened": peak(), "size": size, "cues": cues}))


main()
