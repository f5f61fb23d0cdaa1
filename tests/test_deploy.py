"""The files in deploy/ say what the proxy understands: flags, settings, paths, ports and metrics."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from uvicorn.config import STARTUP_FAILURE

from lynxstop.cli import app
from lynxstop.cli._checks import AddressError
from lynxstop.errors import ConfigError
from lynxstop.proxy import ops
from lynxstop.proxy.app import ROUTES, create_app
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.routes import HANDLERS
from lynxstop.proxy.serve import KEEPALIVE_SECONDS
from lynxstop.proxy.sources import load

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DEFAULTS = ProxyConfig()
PROXY: Any = typer.main.get_command(app).commands["proxy"]  # type: ignore[attr-defined]
BOARD = json.loads((DEPLOY / "grafana.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]


def exported() -> dict[str, set[str]]:
    """Labels of every name that /metrics can show."""
    found = {}
    metrics = Metrics()
    labels = {
        each._name: set(each._labelnames)
        for owner in (metrics.audits, metrics)
        for each in vars(owner).values()
        if hasattr(each, "_labelnames")
    }
    for family in metrics.registry.collect():
        named = labels[family.name]
        match family.type:
            case "counter":
                found[f"{family.name}_total"] = named
            case "histogram":
                found |= {f"{family.name}_{part}": named for part in ("sum", "count")}
                found[f"{family.name}_bucket"] = named | {"le"}
            case _:
                found[family.name] = named
    return found


NAMES = exported()
QUERIES = {
    **{f"panel {panel['title']}": [one["expr"] for one in panel["targets"]] for panel in BOARD["panels"]},
    **{f"alert {rule['alert']}": [rule["expr"]] for rule in RULES},
}
SCRAPED = {"job", "instance"}


@pytest.mark.parametrize("where", QUERIES)
def test_every_metric_and_label_is_exported(where: str) -> None:
    for query in QUERIES[where]:
        used = re.findall(r"\b(lynxstop_\w+)(?:\{([^}]*)\})?", query)
        assert used or "up{" in query
        known = SCRAPED.union(*(NAMES[name] for name, _ in used))
        for name, selected in used:
            chosen = set(re.findall(r"(\w+)\s*=~?", selected))
            assert chosen <= NAMES[name] | SCRAPED, f"{name} has no {chosen - NAMES[name]}"
        for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
            assert {one.strip() for one in grouped.split(",")} <= known, query
        assert query.count("(") == query.count(")")


def test_the_values_of_labels_are_those_that_the_documents_name() -> None:
    said = "".join(path.read_text() for path in (ROOT / "docs/proxy").glob("*.md"))
    code = "".join(path.read_text() for path in (ROOT / "lynxstop/proxy").glob("*.py"))
    for rule in RULES:
        for values in re.findall(r'\b(?:outcome|cause|code|reason)=~?"([^"]*)"', rule["expr"]):
            for value in values.split("|"):
                assert f"`{value}`" in said or f'"{value}"' in code, value


def test_alerts_say_how_bad_and_what() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"].endswith(".")
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0m"))


def test_only_what_the_proxy_could_stop_counts_as_not_stopped() -> None:
    [expr] = [rule["expr"] for rule in RULES if rule["alert"] == "LynxstopNotStopping"]
    [counted] = re.findall(r'route=~"([^"]*)"', expr)
    assert {route for route in ROUTES if re.fullmatch(counted, route)} == {kind.route for kind in HANDLERS}
    # A plugin in the server stops requests that the proxy passes through.
    assert re.search(r'unless .*lynxstop_passthrough_total\{cause="plugin"\}', expr)


def test_the_board_is_laid_out() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {one["name"] for one in BOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD))) <= variables | {"__rate_interval"}


def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **variables: str) -> ProxyConfig:
    """Read a configuration from variables alone."""
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load(None, {}).config


def parsed(words: list[str]) -> dict[str, Any]:
    """Parse a command line of the proxy."""
    assert words[:2] == ["lynxstop", "proxy"]
    return dict(PROXY.make_context("proxy", words[2:]).params)


def dockerfile() -> dict[str, list[str]]:
    """Instructions of the Dockerfile, lines joined."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest.strip())
    return found


@pytest.mark.parametrize("name", ["Dockerfile", "lynxstop.service"])
def test_what_is_installed_can_audit_and_record(name: str) -> None:
    [extras] = re.findall(r"\bpip install .*\[([\w,]+)\]", (DEPLOY / name).read_text())
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # Both need what compares answers.
    assert {"proxy", "calibrate"} <= set(extras.split(",")) <= set(known)


def test_the_container_runs_the_proxy() -> None:
    steps = dockerfile()
    entry = parsed(json.loads(steps["ENTRYPOINT"][0]))
    assert str(entry["port"]) == steps["EXPOSE"][0]
    assert f":{entry['port']}/health" in steps["HEALTHCHECK"][0]
    assert steps["USER"] == ["10001"]
    # A user of the system's has a low number; with this one its group would be whichever is free.
    assert steps["RUN"][1] == "useradd --uid 10001 lynxstop"
    # A variable of the image would win over the file of whoever runs it.
    assert not [word for word in steps["ENV"][0].split() if word.startswith("LYNXSTOP_")]


def test_the_image_is_built_from_what_is_packaged_and_nothing_else() -> None:
    first, *lines = [
        line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] != "#"
    ]
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert (first, kept) == ("*", {*packaged["sdist"]["only-include"], "pyproject.toml"})


def test_compose_fits_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    # Compose takes a relative path from the folder of its file, and makes one that is not there.
    assert [path.split("/")[0] for path in re.findall(r"BUNDLE=(\S+)", text)] == ["$PWD"]
    # The image runs `vllm serve`, which takes the model as its first word.
    assert services["vllm"]["command"][0].startswith("${MODEL:?")
    own = services["lynxstop"]
    assert (DEPLOY / own["build"]["context"] / own["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    given = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in own["environment"].items()}
    config = configured(monkeypatch, tmp_path, **given)
    assert config.upstream.url.startswith("http://vllm:")
    assert [volume.split(":")[-2] for volume in own["volumes"]] == [str(config.policy.bundle)]
    assert config.policy.risk == 0.05
    assert int(own["stop_grace_period"].removesuffix("s")) > config.serve.drain_seconds
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (DEPLOY / volume.split(":")[0]).is_file()
    scraped = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert [one["job_name"] for one in scraped] == ["lynxstop"]
    assert ("GET", scraped[0]["metrics_path"]) in ops.routes(Metrics(), {})
    assert all(f'job="{one["job_name"]}"' in (DEPLOY / "alerts.yaml").read_text() for one in scraped)


def test_the_kubernetes_manifest_fits_together(tmp_path: Path) -> None:
    made = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    by_kind = {one["kind"]: one for one in made}
    pod = by_kind["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    for selector in (
        by_kind["Deployment"]["spec"]["selector"]["matchLabels"],
        by_kind["Service"]["spec"]["selector"],
        by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    # The configuration, as the container reads it: its flags win over the file's.
    (tmp_path / "lynxstop.toml").write_text(by_kind["ConfigMap"]["data"]["lynxstop.toml"])
    config = load(tmp_path / "lynxstop.toml", {}).config
    entry = json.loads(dockerfile()["ENTRYPOINT"][0])
    flags = parsed([*entry, *container["args"]])
    [port] = container["ports"]
    assert port["containerPort"] == flags["port"] == config.serve.port
    assert by_kind["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    paths = ops.routes(Metrics(), {})
    for probe in ("livenessProbe", "readinessProbe"):
        assert ("GET", container[probe]["httpGet"]["path"]) in paths
    assert container["readinessProbe"]["timeoutSeconds"] > ops.CHECK_SECONDS
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > config.serve.drain_seconds + waits
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert set(mounted) == {one["name"] for one in pod["spec"]["volumes"]}
    assert str(config.policy.bundle) == mounted["bundle"]
    assert str(flags["config"]).startswith(mounted["config"])
    section, _, key = container["env"][0]["name"].removeprefix("LYNXSTOP_").lower().partition("_")
    assert key in type(getattr(DEFAULTS, section)).model_fields


def test_the_systemd_unit_runs_the_proxy() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "lynxstop.service")
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    first, *words = shlex.split(unit["Service"]["ExecStart"])
    assert Path(parsed([Path(first).name, *words])["config"]) == Path("/etc/lynxstop/lynxstop.toml")
    assert unit["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(unit["Service"]["TimeoutStopSec"]) > 2 * DEFAULTS.serve.drain_seconds
    # A refused configuration stays refused, while an address may become free.
    assert unit["Service"]["Restart"] == "always"
    assert unit["Service"]["RestartPreventExitStatus"] == str(ConfigError.exit_code) == "2"
    assert AddressError.exit_code == STARTUP_FAILURE != ConfigError.exit_code
    # Recordings and journals are written below a folder that it may write to, relative paths too.
    assert unit["Service"]["WorkingDirectory"] == f"%S/{unit['Service']['StateDirectory']}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="UNIT NOT VERIFIED: install systemd.")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "lynxstop.service"
    installed = (DEPLOY / "lynxstop.service").read_text().replace("/opt/lynxstop/bin/lynxstop", "/bin/true")
    unit.write_text(installed)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    # It only mentions what it does not know, and mentions other units, too.
    assert not [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]


@pytest.mark.parametrize("name", ["lynxstop", "lynxstop-admin", "lynxstop-serve"])
def test_variables_of_a_service_of_kubernetes_are_no_settings(name: str) -> None:
    prefix, address = name.upper().replace("-", "_"), "tcp://10.0.0.11:8400"
    links = {
        f"{prefix}_SERVICE_HOST": "10.0.0.11",
        f"{prefix}_SERVICE_PORT": "8400",
        f"{prefix}_SERVICE_PORT_HTTP": "8400",
        f"{prefix}_PORT": address,
        f"{prefix}_PORT_8400_TCP": address,
        f"{prefix}_PORT_8400_TCP_PROTO": "tcp",
        f"{prefix}_PORT_8400_TCP_PORT": "8400",
        f"{prefix}_PORT_8400_TCP_ADDR": "10.0.0.11",
    }
    assert load(None, {}, links).config == DEFAULTS
    assert load(None, {}, {**links, "LYNXSTOP_LIMITS_QUEUE": "3"}).config.limits.queue == 3
    for wrong in ("LYNXSTOP_POLCY_RISK", "LYNXSTOP_PORTS", f"{prefix}_SERVICE_PORTS"):
        with pytest.raises(ConfigError, match=wrong):
            load(None, {}, {**links, wrong: "1"})
    with pytest.raises(ConfigError, match="LYNXSTOP_SERVE_PORT"):
        load(None, {}, {"LYNXSTOP_SERVICE_PORT": "8400"})
    made = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    [pod] = [one["spec"]["template"]["spec"] for one in made if one["kind"] == "Deployment"]
    assert pod["enableServiceLinks"] is False


def test_what_alerts_count_is_exported_before_it_happens() -> None:
    """`increase` and `rate` miss the first of a series, and a comparison with 0 has nothing to compare."""
    shown = create_app(DEFAULTS).metrics.render().decode()
    series = [re.split(r"[{ ]", line)[0] + " " + line for line in shown.splitlines() if line[0] != "#"]
    for rule in RULES:
        counted = re.findall(r"increase\((\w+)(?:\{([^}]*)\})?", rule["expr"])
        counted += re.findall(r"rate\((\w+)(?:\{([^}]*)\})?\[\w+\]\)\) == 0", rule["expr"])
        for name, chosen in counted:
            found = [line for line in series if line.startswith(f"{name} ") and chosen in line]
            assert found, f"{rule['alert']}: {name} is not there from the start"
            assert all(line.endswith(" 0.0") for line in found)


def test_nginx_passes_streams_on_as_they_come() -> None:
    text = re.sub(r"#.*", "", (DEPLOY / "nginx.conf").read_text())
    assert text.count("{") == text.count("}")
    directives = [" ".join(one.split()) for one in re.split(r"[;{}]", text) if one.strip()]
    for wanted in ("proxy_buffering off", "proxy_http_version 1.1", "gzip off", "proxy_next_upstream off"):
        assert wanted in directives
    assert f"server 127.0.0.1:{DEFAULTS.serve.port}" in directives
    [idle] = [one.split()[1] for one in directives if one.startswith("keepalive_timeout")]
    assert int(idle.removesuffix("s")) < KEEPALIVE_SECONDS
    [most] = [one.split()[1] for one in directives if one.startswith("client_max_body_size")]
    assert int(most.removesuffix("m")) * 2**20 == DEFAULTS.limits.body_bytes


def test_litellm_is_put_in_front() -> None:
    given = yaml.safe_load((DEPLOY / "litellm.yaml").read_text())
    [model] = given["model_list"]
    assert model["litellm_params"]["api_base"] == f"http://127.0.0.1:{DEFAULTS.serve.port}/v1"
    assert given["general_settings"]["forward_client_headers_to_llm_api"] is True
    # LiteLLM does not start without one.
    assert given["general_settings"]["master_key"] == "os.environ/LITELLM_MASTER_KEY"
