"""Each rule of deploy/alerts.yaml, in Prometheus's own evaluation: what raises it, and what does not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_deploy import DEPLOY, NAMES, RULES, SCRAPED

ONE = {"instance": "one", "job": "lynxstop"}
LEVEL = 'group="all",model="m",risk="0.05"'
CHAT = 'route="/v1/chat/completions"'

# Two hours, a value each minute: where it begins, and by how much it rises.
HEALTHY = {
    "up": "1+0x120",
    "lynxstop_risk_target": "0.05+0x120",
    f'lynxstop_requests_total{{{CHAT},outcome="completed"}}': "0+60x120",
    f'lynxstop_requests_total{{{CHAT},outcome="failed"}}': "0+0x120",
    f'lynxstop_requests_total{{{CHAT},outcome="upstream_error"}}': "0+1x120",
    f'lynxstop_requests_total{{{CHAT},outcome="refused"}}': "0+6x120",
    'lynxstop_exits_total{mode="stop",reason="score"}': "0+30x120",
    'lynxstop_passthrough_total{cause="off"}': "0+30x120",
    'lynxstop_uncertified_total{cause="sampling"}': "0+6x120",
    'lynxstop_continuations_total{outcome="done"}': "0+30x120",
    'lynxstop_continuations_total{outcome="broken"}': "0+0x120",
    'lynxstop_decision_seconds_bucket{le="0.0001"}': "0+60x120",
    'lynxstop_decision_seconds_bucket{le="0.001"}': "0+60x120",
    'lynxstop_decision_seconds_bucket{le="0.003"}': "0+60x120",
    'lynxstop_decision_seconds_bucket{le="+Inf"}': "0+60x120",
    f"lynxstop_alarm{{{LEVEL}}}": "0+0x120",
    f"lynxstop_risk_changed{{{LEVEL}}}": "0+0x120",
    "lynxstop_monitor_unknown": "0+0x120",
    'lynxstop_audits_total{outcome="agree"}': "0+20x120",
    'lynxstop_audits_total{outcome="timeout"}': "0+1x120",
    'lynxstop_backend_up{backend="default"}': "1+0x120",
    'lynxstop_reloads_total{outcome="refused"}': "0+0x120",
}
ONCE = "0+0x110 1+0x9"
CASES = {
    "LynxstopDown": {"up": "0+0x120"},
    "LynxstopNotStopping": {'lynxstop_exits_total{mode="stop",reason="score"}': "900+0x120"},
    "LynxstopWrongModel": {'lynxstop_passthrough_total{cause="fingerprint"}': "0+60x120"},
    "LynxstopOutsideCertificate": {'lynxstop_uncertified_total{cause="sampling"}': "0+20x120"},
    "LynxstopUpstreamErrors": {f'lynxstop_requests_total{{{CHAT},outcome="upstream_error"}}': "0+6x120"},
    "LynxstopBrokenContinuations": {'lynxstop_continuations_total{outcome="broken"}': "0+1x120"},
    "LynxstopFailures": {f'lynxstop_requests_total{{{CHAT},outcome="failed"}}': ONCE},
    "LynxstopSlowDecisions": {
        'lynxstop_decision_seconds_bucket{le="0.0001"}': "0+0x120",
        'lynxstop_decision_seconds_bucket{le="0.001"}': "0+58x120",
    },
    "LynxstopOverloaded": {f'lynxstop_requests_total{{{CHAT},outcome="refused"}}': "0+90x120"},
    "LynxstopPromiseBroken": {f"lynxstop_alarm{{{LEVEL}}}": "1+0x120"},
    "LynxstopRiskRising": {f"lynxstop_risk_changed{{{LEVEL}}}": "1+0x120"},
    "LynxstopAuditsUnknown": {"lynxstop_monitor_unknown": "1+0x120"},
    "LynxstopAuditsFail": {'lynxstop_audits_total{outcome="timeout"}': "0+6x120"},
    "LynxstopBackendDown": {'lynxstop_backend_up{backend="default"}': "0+0x120"},
    "LynxstopReloadRefused": {'lynxstop_reloads_total{outcome="refused"}': ONCE},
}
SILENT = {
    "a plugin in the server stops": {
        **CASES["LynxstopNotStopping"],
        'lynxstop_passthrough_total{cause="plugin"}': "0+60x120",
    },
    "exits are off": {**CASES["LynxstopNotStopping"], "lynxstop_risk_target": "0+0x120"},
    "nobody asks": {series: "0+0x120" for series in HEALTHY if "_total" in series or "_bucket" in series},
}


def parsed(series: str) -> tuple[str, dict[str, str]]:
    """Split a series into its name and its labels."""
    return re.split("{", series)[0], dict(re.findall(r'(\w+)="([^"]*)"', series))


def case(given: dict[str, str], alert: str | None) -> dict[str, Any]:
    """Write a case as promtool wants it: one alert is raised, or none, and no other."""
    changed = [parsed(series)[1] for series in given]
    expected = []
    for rule in RULES:
        raised = []
        if rule["alert"] == alert:
            # What an expression does not sum over stays on the alert.
            kept = re.findall(r"\bby \(([^)]*)\)", rule["expr"]) or ["backend, outcome"]
            named = {name.strip() for name in kept[-1].split(",")} - {"le"}
            labels = {name: value for name, value in changed[0].items() if name in named}
            raised = [{"exp_labels": ONE | labels | rule["labels"], "exp_annotations": rule["annotations"]}]
        expected.append({"eval_time": "2h", "alertname": rule["alert"], "exp_alerts": raised})
    series = []
    for one, values in (HEALTHY | given).items():
        name, labels = parsed(one)
        listed = ",".join(f'{key}="{value}"' for key, value in (labels | ONE).items())
        series.append({"series": f"{name}{{{listed}}}", "values": values})
    return {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": expected,
    }


def test_every_alert_has_a_case_of_series_that_are_exported() -> None:
    assert set(CASES) == {rule["alert"] for rule in RULES}
    for given in (HEALTHY, *CASES.values(), *SILENT.values()):
        for name, labels in map(parsed, given):
            assert set(labels) == NAMES.get(name, SCRAPED) - SCRAPED, name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="ALERTS NOT EVALUATED: install prometheus.")
def test_each_alert_is_raised_by_what_it_is_about_and_by_nothing_else(tmp_path: Path) -> None:
    cases = [case({}, None), *(case(given, None) for given in SILENT.values())]
    cases += [case(given, alert) for alert, given in CASES.items()]
    made = {"rule_files": [str(DEPLOY / "alerts.yaml")], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(made))

    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "cases.yaml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
