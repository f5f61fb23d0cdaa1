"""Flag over environment over file over default; what does not exist is refused, secrets are not shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.errors import ConfigError
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.sources import load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lynxstop.toml"
    path.write_text(
        """
        [serve]
        port = 1111
        host = "0.0.0.0"
        workers = 2
        [upstream]
        url = "http://server:9/v1/"
        [policy]
        risk = 0.05
        reasoning_effort = {low = 0.1, high = "off"}
        """
    )
    return path


def test_what_wins(file: Path) -> None:
    environment = {"LYNXSTOP_SERVE_PORT": "2222", "LYNXSTOP_SERVE_HOST": "127.0.0.2", "LYNXSTOP_BUNDLE": "x"}
    loaded = load(file, {"serve.port": 3333, "policy.mode": None}, environment)

    serve = loaded.config.serve
    assert (serve.port, serve.host, serve.workers, serve.drain_seconds) == (3333, "127.0.0.2", 2, 30)
    assert {key: loaded.origins[f"serve.{key}"] for key in ("port", "host", "workers", "drain_seconds")} == {
        "port": "flag",
        "host": "LYNXSTOP_SERVE_HOST",
        "workers": str(file),
        "drain_seconds": "default",
    }
    assert loaded.origins["policy.mode"] == "default"
    assert loaded.config.upstream.url == "http://server:9"
    assert loaded.config.policy.reasoning_effort == {"low": 0.1, "high": "off"}


def test_lists_and_tables_in_the_environment() -> None:
    config = load(
        None,
        {},
        {
            "LYNXSTOP_SERVE_API_KEYS": "a, b",
            "LYNXSTOP_POLICY_REASONING_EFFORT": "low=0.1,high=off",
            "LYNXSTOP_POLICY_RISK": "off",
            "LYNXSTOP_RECORD_REDACT": "false",
            "LYNXSTOP_UPSTREAM_READ_SECONDS": "",
        },
    ).config

    assert [key.get_secret_value() for key in config.serve.api_keys] == ["a", "b"]
    assert config.policy.reasoning_effort == {"low": 0.1, "high": "off"}
    assert config.policy.risk == "off"
    assert config.record.redact is False
    assert config.upstream.read_seconds is None


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[serve]\nprot = 1", "serve.prot"),
        ("[server]\nport = 1", r"\[server\]"),
        ("port = 1", "port"),
        ("[serve]\nport = 'x'", "serve.port"),
        ("[policy]\nrisk = 2", "policy.risk"),
        ("[policy]\nmode = 'halt'", "policy.mode"),
        ("[upstream]\nurl = 'localhost:8000'", "upstream.url"),
        ("[serve]\ntls_key = 'k.pem'", "serve"),
        ("[serve", "not TOML"),
        ("[policy]\nrisk = 'Off'", r'policy.risk .* a level between 0 and 1 is meant, or "off"'),
        ("[[backend]]\nmodels = ['a']\nrisk = '5%'", r'^risk of \[\[backend\]\] number 1 .*or "off"'),
        ("[[backend]]\nmodels = [5]", r"^models of \[\[backend\]\] number 1"),
        ("[upstream]\nurl = 'http://server/v1/chat/completions'", "upstream.url .* without a route"),
        ("[upstream]\nurl = 'http://me:word@server'", "upstream.url .* upstream.api_key"),
        ("[upstream]\nurl = 'http://server:80000'", "upstream.url .* Port out of range"),
        ("[serve]\napi_keys = ['a', '']", "serve.api_keys .* neither empty"),
        ("[admin]\napi_keys = ['']", "admin.api_keys .* neither empty"),
        ('[upstream]\napi_key = "a\\n"', "upstream.api_key .* line ends"),
        ("[admin]\nport = 0", "admin.port"),
        (
            "[policy]\nbundle = 'b'\n[[backend]]\nmodels = ['a']",
            "policy.bundle is that of upstream.url, which is not given",
        ),
        ("[[backend]]\nmodels = ['a/b']\n[[backend]]\nmodels = ['a_b']", "a/b and a_b would share a folder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(content)

    with pytest.raises(ConfigError, match=named):
        load(path, {}, {})


def test_a_variable_that_sets_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="LYNXSTOP_SERVE_PROT"):
        load(None, {}, {"LYNXSTOP_SERVE_PROT": "1"})
    with pytest.raises(ConfigError, match="LYNXSTOP_SERVE_API_KEYS lists nothing"):
        load(None, {}, {"LYNXSTOP_SERVE_API_KEYS": " , "})
    with pytest.raises(ConfigError, match=r"missing.toml"):
        load(Path("missing.toml"), {}, {})


def test_secrets_are_not_shown_even_when_they_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[upstream]\napi_key = "hush"\n[serve]\napi_keys = ["hush"]')
    shown = CliRunner().invoke(app, ["config", "show", "--origin", "--json", "--config", str(path)])
    path.write_text("[upstream]\napi_key = ['hush']")
    with pytest.raises(ConfigError) as error:
        load(path, {}, {})

    values = json.loads(shown.stdout)
    assert values["upstream.api_key"] == {"value": "**********", "origin": str(path)}
    assert "hush" not in shown.stdout + str(error.value) + repr(ProxyConfig())


def test_show_prints_every_key_with_its_origin(file: Path) -> None:
    shown = CliRunner().invoke(app, ["config", "show", "--origin", "--config", str(file)])

    assert shown.exit_code == 0
    for section, model in ProxyConfig.model_fields.items():
        if section == "backend":
            continue
        for name in model.annotation.model_fields:  # type: ignore[union-attr]
            assert f"{section}.{name}" in shown.stdout


def test_the_table_in_the_documents_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "config_table.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_plugins_variables_mean_the_same_here() -> None:
    shared = {"LYNXSTOP_BUNDLE": "bundle", "LYNXSTOP_RISK": "0.1", "LYNXSTOP_MODE": "shadow"}
    loaded = load(None, {}, shared)
    policy = loaded.config.policy
    assert (policy.bundle, policy.risk, policy.mode) == (Path("bundle"), 0.1, "shadow")
    assert loaded.origins["policy.bundle"] == "LYNXSTOP_BUNDLE"
    own = load(None, {}, {**shared, "LYNXSTOP_POLICY_RISK": "0.2"})
    assert own.config.policy.risk == 0.2
    assert own.origins["policy.risk"] == "LYNXSTOP_POLICY_RISK"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LYNXSTOP_POLCY_RISK", "sets no key"),
        ("LYNXSTOP_RISKS", "sets no key"),
        ("LYNXSTOP_RECORD", "only the plugin in vLLM has it"),
    ],
)
def test_a_variable_of_any_section_that_sets_nothing_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(None, {}, {name: "0.05"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[serve]\napi_keys = "x"\n', r'a list is meant, as in \["x"\]'),
        ("[policy]\nreasoning_effort = 1\n", "a table is meant, as in"),
        ('[upstream]\nurl = "x"\n', "is wrong: must be an address"),
    ],
)
def test_a_wrong_form_is_explained(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "lynxstop.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load(path, {}, {})
    assert "Value error" not in str(caught.value)
