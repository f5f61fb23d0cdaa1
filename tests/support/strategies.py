"""Random small tables for property tests."""

import numpy as np
from hypothesis import strategies as st

from lynxstop.calibration.traces import TraceTable

SCORES = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 0.1, 0.5, 1.0, 3.0])


@st.composite
def tables(draw, max_traces=8, losses=(0.0, 1.0)):
    """Few traces, many ties, traces without cues."""
    cue = st.tuples(SCORES, st.sampled_from(losses))
    traces = draw(st.lists(st.lists(cue, max_size=6), min_size=1, max_size=max_traces))
    cues = [cue for trace in traces for cue in trace]
    return TraceTable.from_arrays(
        problem_ids=[f"p{i}" for i in range(len(traces))],
        lengths=[len(trace) for trace in traces],
        scores=np.array([score for score, _ in cues]),
        losses=np.array([loss for _, loss in cues]),
        tokens=np.array([i + 1 for trace in traces for i in range(len(trace))], dtype=int),
        full_tokens=np.array([len(trace) + 2 for trace in traces]),
    )
