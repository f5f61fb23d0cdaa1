"""The fused kernel: tested in Triton's interpreter, compiled for GPUs that are not here, and counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from lynxstop.core.policy import Level, StopPolicy  # noqa: E402
from lynxstop.engines.vllm.device_sessions import DeviceSessions  # noqa: E402
from lynxstop.engines.vllm.drafted_sessions import DraftedSessions  # noqa: E402
from lynxstop.engines.vllm.fused_sessions import FusedSessions  # noqa: E402
from lynxstop.engines.vllm.request_options import RequestOptions  # noqa: E402
from lynxstop.engines.vllm.session_batch import BatchStep, Drafts  # noqa: E402
from lynxstop.engines.vllm.text_ends import TextEnds  # noqa: E402
from tests.vllm.test_sessions import EXIT, MACHINE, PROBE, RISK, VOCABULARY  # noqa: E402


@pytest.mark.timeout(1200)
def test_the_kernel_in_the_interpreter() -> None:
    # given Triton's interpreter, which a process has to ask for from the start
    file = Path(__file__).parent / "test_fused_sessions.py"
    line = [sys.executable, "-m", "pytest", str(file), "-q", "-p", "no:cacheprovider"]
    # when the kernel is tested there, then it passes
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=file.parents[2])
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("sizes", "guarded", "drafted"),
    [((1,), False, False), ((256, 64, 1), True, False), ((1,), False, True), ((256, 64, 1), True, True)],
)
def test_the_kernel_compiles_for_a_gpu(sizes: tuple[int, ...], guarded: bool, drafted: bool) -> None:
    # given the compiler for an H100, which needs no GPU
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lynxstop.engines.vllm.fused_kernel import fused_step

    constants = {
        "DRAFTED": drafted, "GUARDED": guarded, "WIDTH": 1000, "TAPPED": 1, "SIZES": sizes,
        "HALF": max(sizes), "UNITS": min(8, max(sizes)), "BLOCK": 512,
    }  # fmt: skip
    kinds: dict[str, Any] = dict.fromkeys(fused_step.arg_names, "i32")
    kinds |= dict.fromkeys(constants, "constexpr") | {"tilt": "fp32", "states": ("*bf16", "*bf16")}
    kinds |= dict.fromkeys(("kept", "requests", "classes", "table", "tokens", "ends"), "*i32")
    kinds |= dict.fromkeys(("shows", "wanted", "exits"), "*i32")
    kinds |= dict.fromkeys(("places", "positions", "exit_ids", "counters"), "*i64")
    kinds |= dict.fromkeys(("logits", "scratch"), "*fp32")
    kinds |= {name: ("*fp32",) * len(sizes) for name in ("weights", "biases")}
    source = ASTSource(fused_step, signature=kinds, constexprs=constants)
    # when it is compiled, then there is machine code; sums and products of the tilt are not contracted
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert made.asm["cubin"]
    assert "fma" not in made.asm["ptx"]


class _Operations(TorchDispatchMode):
    """Counts operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "detach" not in func.name():
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_forcing_alone_compiles_for_a_gpu() -> None:
    # given the compiler for an H100
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lynxstop.engines.vllm.fused_kernel import fused_force

    kinds = {"wanted": "*i32", "logits": "*fp32", "exit_ids": "*i64", "logits_stride": "i32"}
    source = ASTSource(fused_force, signature=kinds)
    # when the kernel that only forces is compiled, then there is machine code
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert made.asm["cubin"]


@pytest.mark.parametrize("drafts", [None, 3])
@pytest.mark.parametrize("asked", [False, True])
def test_a_step_is_one_launch_and_waits_for_nothing(
    drafts: int | None, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given sessions on a device without data, where whatever waits for a value raises; and counted kernels
    device, launches = torch.device("meta"), []

    class Kernel:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *args, **constants: launches.append((self._name, *grid))

    for name in ("fused_step", "fused_force"):
        monkeypatch.setattr(f"lynxstop.engines.vllm.fused_kernel.{name}", Kernel(name))
    policy = StopPolicy(EXIT, (Level(RISK, 0.0),), min_tokens=2, tilt=0.1)
    given_ = (MACHINE, policy, PROBE, device, 5, 2)
    sessions = FusedSessions(
        DeviceSessions(*given_) if drafts is None else DraftedSessions(*given_, drafts=drafts)
    )
    ends = TextEnds(5)
    for slot in range(4):
        terms = RequestOptions(True, 0.0, ends=frozenset({2, 3}), limit=9)
        sessions.admit(slot, [0], terms)
        ends.enter(slot, terms)
    rows = 4 if drafts is None else 4 * (1 + drafts)
    features, logits = torch.zeros(rows, 1, device=device), torch.zeros(rows, VOCABULARY, device=device)
    tokens, positions = torch.zeros(2, rows, dtype=torch.int32, device=device)
    plan = None
    if drafts is not None:
        starts = np.arange(0, rows, 1 + drafts)
        plan = Drafts(starts, np.full(4, 1 + drafts), positions, np.zeros(4, dtype=np.bool_))
    counted: list[list[str]] = []
    for _ in range(3):
        step = BatchStep(np.arange(4), tokens, None, None, lambda _: [], plan, ends)
        with _Operations() as seen:
            # when a step is armed
            sessions.observe(step, lambda _: features, logits)
            if asked:
                sessions.exits()
            sessions.force(logits)
        counted.append(seen.names)
    # then it is one launch, and one more where exits are asked for before logits may be changed
    assert launches == [("fused_step", 4), *([("fused_force", rows)] * asked)] * 3
    # and only the first one also brings over who is in the batch
    assert counted[1:] == [[], []]


def test_other_numbers_of_drafts_are_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    # given requests whose number of drafts changes from step to step
    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *args, **constants: None

    monkeypatch.setattr("lynxstop.engines.vllm.fused_kernel.fused_step", Kernel())
    device = torch.device("meta")
    sessions = FusedSessions(
        DraftedSessions(MACHINE, StopPolicy(EXIT, (Level(RISK, 0.0),)), PROBE, device, 5, 2, drafts=3)
    )
    for number in (1, 2, 4):
        tokens, logits = torch.zeros(number, device=device), torch.zeros(number, VOCABULARY, device=device)
        plan = Drafts(np.array([0]), np.array([number]), tokens, np.array([False]))
        step = BatchStep(np.array([2]), tokens, None, None, lambda _: [], plan)
        features = torch.zeros(number, 1, device=device)
        with _Operations() as seen:
            # when a step is armed
            sessions.observe(step, lambda _, features=features: features, logits)  # type: ignore[misc]
            sessions.force(logits)
        # then what describes its requests is copied, and memory is set aside: nothing else is launched
        assert [name for name in seen.names if not name.startswith("aten::empty")] == ["aten::_to_copy"]
