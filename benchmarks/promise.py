"""The promise from end to end: kept, broken by other traffic, noticed, and made anew, with a real vLLM.

    python benchmarks/promise.py plugin|proxy [--risk 0.05] [--requests 2000] [--harder 600] [--json]

`plugin` is `lynxstop serve`, which decides in vLLM's engine; `proxy` is `lynxstop proxy` before a vLLM that
knows nothing of it, with a certificate made on shadow traffic of easy problems. Both audit every request of
the shipped model at a certified level. They get problems like those of calibration, then sums of six
operations until the alarm, some more of these, and then another temperature. The bundle is calibrated again
on the audits; that of the proxy also on shadow traffic of the harder problems, which are then served under
the new certificate. Every command is run as a user runs it. Ends with status 1 when a step did not come out
as the promise says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from proxy import Process

from lynxstop import shipped
from lynxstop.demo.problems import draw
from lynxstop.monitor.levels import JOURNAL, open_state
from lynxstop.monitor.monitor import Finding

MODEL, BATCH = "reasoner", 64
CERTIFIED = {"temperature": 0.9, "top_p": 1.0, "max_tokens": 1100}
FLAGS = [
    "--served-model-name", MODEL, "--dtype", "float32", "--max-model-len", "1536", "--max-num-seqs", "128",
    "--enforce-eager", "--generation-config", "vllm",
]  # fmt: skip
MONITOR = """
[policy]
risk = {risk}
[monitor]
state = "{state}"
audit = 1.0
concurrent = 64
waiting = 4096
stop_on_change = true
key = "promise"
"""


def lynxstop(*words: object) -> tuple[int, dict[str, Any]]:
    """Run a command; give its exit status, and the object that it prints."""
    line = [sys.executable, "-m", "lynxstop.cli", *map(str, words), "--json"]
    made = subprocess.run(line, capture_output=True, text=True, check=False)
    try:
        return made.returncode, json.loads(made.stdout)
    except ValueError:
        return made.returncode, {"error": made.stderr.strip()}


class Command(Process):
    """A command that serves, ready when it is healthy; what it prints goes to `log`."""

    def __init__(self, log: Path, *line: object) -> None:
        super().__init__()
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", **os.environ}
        with log.open("w") as output:
            command = [sys.executable, "-m", *map(str, line), "--port", str(self.port)]
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            _healthy(self.url, self.process, log)
        except BaseException:
            self.__exit__()
            raise


@contextmanager
def serving(log: Path, *line: object) -> Iterator[str]:
    """Run a server on a free port; give its address when it is healthy."""
    with Command(log, *line) as command:
        yield command.url


def _healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    with httpx.Client() as client:
        for _ in range(1800):
            try:
                if client.get(f"{url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
            if process.poll() is not None:
                break
    raise SystemExit(log.read_text()[-3000:])


class Traffic:
    """Asks a server, and tells what became of the requests.

    Parameters
    ----------
    url : str
    state : Path
        Folder of the audits.
    risk : float
        Level that requests are served at.
    """

    def __init__(self, url: str, state: Path, risk: float) -> None:
        self.url, self.state, self.risk = url, state, risk
        self.rows: list[dict[str, Any]] = []

    @property
    def finding(self) -> Finding | None:
        """What the audits say about the level."""
        if not (self.state / JOURNAL).exists():
            return None
        found = open_state(self.state).findings
        return next((one for key, one in found.items() if key.risk == self.risk), None)

    def send(
        self, what: str, problems: Sequence[str], *, until_alarm: bool = False, **more: Any
    ) -> dict[str, Any]:
        """Ask for answers, at most `BATCH` at a time, and wait for their audits."""
        before = self.finding
        said: list[dict[str, Any]] = []
        step = BATCH if until_alarm else len(problems)
        begun = time.monotonic()
        for start in range(0, len(problems), step):
            said += asyncio.run(self.ask(problems[start : start + step], more))
            if until_alarm and (found := self.settled()) is not None and found.alarm:
                break
        found = self.settled()
        reports = [answer.get("lynxstop") or {} for answer in said]
        old = (0, 0.0) if before is None or found is None else (before.audits, before.lost)
        row = {
            "step": what,
            "requests": len(said),
            "failed": sum("choices" not in answer for answer in said),
            "stopped": sum(bool(one.get("stopped")) for one in reports),
            "named": sum(one.get("certificate") is not None for one in reports),
            "audits": 0 if found is None else found.audits - old[0],
            "lost": 0.0 if found is None else found.lost - old[1],
            "state": "none" if found is None else found.state,
            "seconds": round(time.monotonic() - begun, 1),
        }
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        return row

    def settled(self) -> Finding | None:
        """Wait until no audit is under way."""
        last, same = None, 0
        while same < 3:
            time.sleep(0.7)
            found = self.finding
            pending = 0 if found is None else len(open_state(self.state).pending)
            same = same + 1 if found == last and not pending else 0
            last = found
        return last

    async def ask(self, problems: Sequence[str], more: dict[str, Any]) -> list[dict[str, Any]]:
        """Ask for answers; what failed has no choices."""
        limit = asyncio.Semaphore(BATCH)
        async with httpx.AsyncClient(timeout=600) as client:

            async def one(problem: str) -> dict[str, Any]:
                body = {"model": MODEL, "messages": [{"role": "user", "content": problem}]}
                async with limit:
                    try:
                        reply = await client.post(
                            f"{self.url}/v1/chat/completions", json={**body, **CERTIFIED, **more}
                        )
                        return dict(reply.json())
                    except (httpx.HTTPError, ValueError) as error:
                        return {"error": str(error)}

            return list(await asyncio.gather(*(one(problem) for problem in problems)))


def prompts(n: int, seed: int, kind: str = "usual") -> list[str]:
    """Problems that no shipped set holds: as usual, easy (two or three operations), or hard (sums of six)."""
    if kind == "hard":
        return [made.prompt for made in draw(n, seed, split="shift", families=("solve", "compute"))]
    drawn = draw(n if kind == "usual" else 3 * n, seed)
    return [made.prompt for made in drawn if kind == "usual" or made.difficulty <= 3][:n]


def certificate(found: dict[str, Any], risk: float) -> str:
    """What calibrating again gave for the level."""
    if "error" in found:
        return str(found["error"]).partition("\n")[0]
    rows = [row for row in found["levels"] if row["risk"] == risk and row["group"] is None]
    old = next((row for row in found.get("replaced", ()) if row["risk"] == risk), None)
    was = "" if old is None else f"before: {old['lost']:.2%} of {old['problems']}; now: "
    if not rows:
        return "too few audits"
    [row] = rows
    if row["refused"]:
        return f"{was}refused on {row['n']}, no exits"
    return f"{was}{row['losses']:g} losses of {row['n']}, certified at the threshold {row['threshold']:.3f}"


def served(traffic: Traffic, bundle: Path, kind: str, sizes: argparse.Namespace) -> dict[str, str]:
    """The part that plugin and proxy have in common."""
    told: dict[str, str] = {}
    traffic.send("like the calibration", prompts(sizes.requests, 101, kind))
    harder = prompts(sizes.harder + BATCH, 102, "hard")
    traffic.send("harder, until the alarm", harder[: sizes.harder], until_alarm=True)
    told["exit status of `lynxstop monitor status`"] = str(lynxstop("monitor", "status", traffic.state)[0])
    if (ready := httpx.get(f"{traffic.url}/ready")).is_success:
        told["/ready says"] = " ".join(ready.json()["notices"].values())
    told["the alarm says"] = "" if (found := traffic.finding) is None else found.reason
    traffic.send("harder, after the alarm", harder[sizes.harder :])
    told["calibrated on all audits"] = certificate(
        lynxstop("calibrate", bundle, "--from-audit", traffic.state)[1], traffic.risk
    )
    lynxstop("monitor", "reset", traffic.state)
    time.sleep(3)
    traffic.send("temperature 1.3, after a reset", prompts(BATCH, 103), temperature=1.3)
    return told


def checked(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What did not come out as the promise says."""
    by = {row["step"]: row for row in rows}
    wrong = [f"{row['failed']} requests failed: {row['step']}" for row in rows if row["failed"]]
    if by["like the calibration"]["state"] not in ("ok", "inputs"):
        wrong.append("an alarm on traffic like that of calibration")
    if by["harder, until the alarm"]["state"] != "alarm":
        wrong.append("no alarm")
    wrong += [
        f"stopped, or a certificate named: {step}"
        for step in ("harder, after the alarm", "temperature 1.3, after a reset")
        if by[step]["stopped"] or by[step]["named"]
    ]
    if (again := by.get("harder, under the new certificate")) and again["state"] == "alarm":
        wrong.append("an alarm under the new certificate")
    return wrong


def plugin(folder: Path, sizes: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """`lynxstop serve`."""
    bundle, state, config = folder / "bundle", folder / "audits", folder / "lynxstop.toml"
    shutil.copytree(shipped.BUNDLE, bundle)
    config.write_text(MONITOR.format(risk=sizes.risk, state=state))
    line = ("lynxstop.cli", "serve", shipped.MODEL, "--bundle", bundle, "--config", config, *FLAGS)
    with serving(folder / "serve.log", *line) as url:
        traffic = Traffic(url, state, sizes.risk)
        told = served(traffic, bundle, "usual", sizes)
    return traffic.rows, told


def proxy(folder: Path, sizes: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """`lynxstop proxy` before a stock vLLM."""
    bundle, again, state = folder / "bundle", folder / "again", folder / "audits"
    config, told = folder / "lynxstop.toml", {}
    config.write_text(MONITOR.format(risk=sizes.risk, state=state))
    stock = ("vllm.entrypoints.openai.api_server", "--model", shipped.MODEL, *FLAGS)
    with serving(folder / "vllm.log", *stock, "--reasoning-parser", "qwen3") as upstream:
        line = ("lynxstop.cli", "proxy", "--upstream", upstream, "--config", config, "--bundle")

        def calibrated(copy: Path, kind: str, seed: int) -> None:
            shutil.copytree(shipped.STREAM_BUNDLE, copy)
            record = folder / f"shadow-{kind}"
            with serving(folder / f"{kind}.log", *line, copy, "--mode", "shadow", "--record", record) as url:
                _shadow(Traffic(url, state, sizes.risk), prompts(sizes.shadow, seed, kind))
            found = lynxstop("calibrate", copy, "--from-shadow", record, "--risk", sizes.risk)[1]
            told[f"calibrated on shadow traffic, {kind} problems"] = certificate(found, sizes.risk)

        calibrated(bundle, "easy", 104)
        with serving(folder / "proxy.log", *line, bundle) as url:
            traffic = Traffic(url, state, sizes.risk)
            told |= served(traffic, bundle, "easy", sizes)
        calibrated(again, "hard", 105)
        lynxstop("monitor", "reset", state)
        with serving(folder / "again.log", *line, again) as url:
            traffic.url = url
            traffic.send("harder, under the new certificate", prompts(sizes.again, 106, "hard"))
    return traffic.rows, told


def _shadow(traffic: Traffic, problems: Sequence[str]) -> None:
    """Have problems recorded, no more at a time than the proxy keeps waiting."""
    for start in range(0, len(problems), BATCH):
        part = problems[start : start + BATCH]
        asyncio.run(traffic.ask(part, {}))
        _recorded(traffic.url, start + len(part))


def _recorded(url: str, count: int) -> None:
    """Wait until so many requests have been recorded, or dropped."""
    for _ in range(3000):
        page = httpx.get(f"{url}/metrics").text
        found = re.findall(r"^lynxstop_shadow_recorded_total\{.*\} ([0-9.e+]+)$", page, re.M)
        if sum(map(float, found)) >= count:
            return
        time.sleep(0.2)
    raise SystemExit("Shadow traffic was not recorded.")


def main() -> int:
    """Print the table, and what the commands said."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("way", choices=["plugin", "proxy"])
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--harder", type=int, default=600, help="at most, until the alarm")
    parser.add_argument("--shadow", type=int, default=500)
    parser.add_argument("--again", type=int, default=300, help="under the new certificate")
    parser.add_argument("--json", action="store_true")
    sizes = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, told = {"plugin": plugin, "proxy": proxy}[sizes.way](Path(folder), sizes)
    wrong = checked(rows)
    if sizes.json:
        print(json.dumps({"rows": rows, "told": told, "wrong": wrong}, indent=1))
    else:
        names = ("step", "requests", "failed", "stopped", "named", "audits", "lost", "state")
        heads = ("step", "requests", "failed", "stopped", "under a certificate", "audits", "losses", "state")
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for row in rows:
            values = (
                f"{value:g}" if isinstance(value, float) else f"{value}" for value in map(row.get, names)
            )
            print(f"| {' | '.join(values)} |")
        print("\n" + "\n".join(f"- {what}: {text}" for what, text in told.items()))
        print("\n".join(f"WRONG: {what}" for what in wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
