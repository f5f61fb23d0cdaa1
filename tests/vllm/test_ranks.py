"""Several processes that serve the same requests: one of them tells of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
prometheus = pytest.importorskip("prometheus_client")

from lynxstop.engines.vllm.metrics import PluginMetrics  # noqa: E402


def shown(model: str, name: str, **labels: str) -> float:
    """What /metrics says."""
    found = prometheus.REGISTRY.get_sample_value(f"lynxstop:{name}_total", {"model_name": model, **labels})
    return found or 0.0


def test_what_happens_to_a_request_is_shown_by_one_rank_and_errors_by_each() -> None:
    # given two ranks of tensor parallelism, which take the same decisions
    ranks = [PluginMetrics("ranks", leads=leads) for leads in (True, False)]
    # when both count an exit, a departure and an error
    for metrics in ranks:
        metrics.count("exits_score")
        metrics.count_uncertified(["temperature"])
        metrics.count("errors")
    # then the page shows one exit and one request, and either error
    assert shown("ranks", "exits_score") == shown("ranks", "uncertified", cause="temperature") == 1
    assert shown("ranks", "errors") == 2


def test_a_rank_beside_the_first_decides_and_tells_nothing(
    make_llm: Any,
    make_model: Any,
    make_bundle: Any,
    prompts: Any,
    generate: Any,
    counts_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # given what the first rank generates
    from lynxstop.engines.vllm import attach

    model = make_model("Qwen3")
    bundle = make_bundle(model)
    settings = {"uncertified": "stop", "record": str(tmp_path / "rows"), "reports": str(tmp_path)}
    expected = generate(make_llm(model, bundle, settings={"uncertified": "stop"}), prompts)
    # when another rank serves the same
    monkeypatch.setattr(attach, "_rank", lambda: (False, True))
    llm = make_llm(model, bundle, settings=settings, served_model_name="second-rank")
    found = generate(llm, prompts, xargs={"lynxstop_report": f"{1:032x}"})
    # then it takes the same decisions, and writes, reports and shows nothing
    assert found == expected
    assert counts_of(llm)["exits_score"] > 0
    assert shown("second-rank", "exits_score") == shown("second-rank", "cues") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_does_not_sample_stays_idle(
    make_llm: Any, make_model: Any, make_bundle: Any, runner_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a stage of a pipeline that is not the last, when it loads its part of a model
    from lynxstop.engines.vllm import attach
    from lynxstop.engines.vllm.processor import LynxstopProcessor

    monkeypatch.setattr(attach, "_rank", lambda: (True, False))
    model = make_model("Qwen3")
    runner = runner_of(make_llm(model, make_bundle(model)))
    # then nothing follows its requests
    ours = [p for p in runner.input_batch.logitsprocs.all if isinstance(p, LynxstopProcessor)]
    assert [one.adapter for one in ours] == [None]
