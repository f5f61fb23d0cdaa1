"""One proxy for several models, bundles and servers: each request goes to the backend of its model."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lynxstop.errors import ConfigError
from lynxstop.proxy.serve import build
from lynxstop.proxy.sources import load
from lynxstop.testing.server import MockServer
from tests.support.servers import Proxied, eventually, proxied, serving

CHAT = "/v1/chat/completions"


def config(folder: Path, text: str) -> Any:
    path = folder / "lynxstop.toml"
    path.write_text(text)
    return load(path, {}, {}).config


def ask(url: str, model: str | None, **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "What is 7 + 5 * 2?"}], **more}
    return httpx.post(url + CHAT, json=body if model is None else {"model": model, **body}, timeout=30)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxied, MockServer, MockServer]]:
    small, large = MockServer(model="small"), MockServer(model="large-8b")
    with serving(small) as one, serving(large) as two:
        text = f"""
            [[backend]]
            models = ["small"]
            url = "{one}"
            [[backend]]
            models = ["large-*"]
            url = "{two}"
            """
        made = build(config(tmp_path_factory.mktemp("fleet"), text))
        with proxied("unused", made) as proxy:
            yield proxy, small, large


def test_a_request_goes_to_the_backend_of_its_model(fleet: tuple[Proxied, MockServer, MockServer]) -> None:
    proxy, small, large = fleet
    before = len(small.records), len(large.records)
    assert ask(proxy.url, "small").json()["model"] == "small"
    assert ask(proxy.url, "large-8b").json()["model"] == "large-8b"
    whole = httpx.post(proxy.url + "/v1/completions", json={"model": "large-8b", "prompt": "Hi"})
    assert whole.json()["model"] == "large-8b"
    # A path that is only relayed goes by the model too.
    assert httpx.post(proxy.url + "/tokenize", json={"model": "small", "prompt": "a"}).status_code == 200
    assert (len(small.records), len(large.records)) == (before[0] + 1, before[1] + 2)


def test_a_model_of_no_backend_is_refused(fleet: tuple[Proxied, MockServer, MockServer]) -> None:
    unknown, unnamed = ask(fleet[0].url, "other"), ask(fleet[0].url, None)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert "small, large-*" in unknown.json()["error"]["message"]
    assert unnamed.status_code == 400


def test_all_models_are_listed_once(fleet: tuple[Proxied, MockServer, MockServer]) -> None:
    listed = httpx.get(fleet[0].url + "/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["small", "large-8b"]


def test_a_server_that_is_away_does_not_take_the_others_out(tmp_path: Path) -> None:
    with serving(MockServer(model="here")) as url:
        text = f"""
            [upstream]
            connect_seconds = 0.5
            [[backend]]
            models = ["gone"]
            url = "http://127.0.0.1:9"
            [[backend]]
            models = ["here"]
            url = "{url}"
            """
        with proxied("unused", build(config(tmp_path, text))) as proxy:
            ready = httpx.get(proxy.url + "/ready", timeout=30)
            assert ready.status_code == 200
            assert ready.json()["checks"]["here"] == "ok"
            assert ready.json()["checks"]["gone"] != "ok"
            assert set(ready.json()["backends"]) == {"gone", "here"}
            eventually(lambda: proxy.count("lynxstop_backend_up", backend="here") == 1)
            assert proxy.count("lynxstop_backend_up", backend="gone") == 0
            assert [one["id"] for one in httpx.get(proxy.url + "/v1/models").json()["data"]] == ["here"]
            assert ask(proxy.url, "gone").status_code == 502
            assert ask(proxy.url, "here").status_code == 200
    # Where none is there, the proxy is not ready.
    with proxied("unused", build(config(tmp_path, text))) as proxy:
        assert httpx.get(proxy.url + "/ready", timeout=30).status_code == 503


def test_a_server_that_hangs_does_not_hold_up_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lynxstop.proxy.backends.ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, serving(MockServer(model="here")) as url:
        text = f"""
            [[backend]]
            models = ["hangs"]
            url = "http://127.0.0.1:{silent.getsockname()[1]}"
            [[backend]]
            models = ["here"]
            url = "{url}"
            """
        with proxied("unused", build(config(tmp_path, text))) as proxy:
            found = httpx.get(proxy.url + "/v1/models", timeout=20).json()
    assert [one["id"] for one in found["data"]] == ["here"]


def test_the_upstream_of_old_gets_all_other_models(tmp_path: Path) -> None:
    with serving(MockServer(model="rest")) as rest, serving(MockServer(model="own")) as own:
        text = f"""
            upstream.url = "{rest}"
            [[backend]]
            models = ["own"]
            url = "{own}"
            """
        with proxied("unused", build(config(tmp_path, text))) as proxy:
            assert ask(proxy.url, "own").json()["model"] == "own"
            assert ask(proxy.url, "any").json()["model"] == "rest"
            assert ask(proxy.url, None).json()["model"] == "rest"


def test_a_backend_takes_over_what_it_leaves_out(tmp_path: Path) -> None:
    made = config(
        tmp_path,
        """
        [upstream]
        url = "http://shared:8000"
        connect_seconds = 3
        [policy]
        bundle = "general"
        mode = "shadow"
        [record]
        folder = "records"
        [[backend]]
        models = ["a", "b*"]
        bundle = "special"
        risk = 0.1
        """,
    )
    [(named, own), (none, rest)] = made.parts()
    assert named is not None
    assert none is None
    assert (named.name, named.takes("bee"), named.takes("c")) == ("a", True, False)
    assert (own.upstream.url, own.upstream.connect_seconds) == ("http://shared:8000", 3)
    assert (str(own.policy.bundle), own.policy.risk, own.policy.mode) == ("special", 0.1, "shadow")
    assert (own.upstream.model, rest.upstream.model) == ("a", None)
    assert (str(own.record.folder), str(rest.record.folder)) == ("records/a", "records")
    assert str(rest.policy.bundle) == "general"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[backend]]\nmodels = ["a"]\nrsik = 0.1', "no key rsik. Did you mean risk?"),
        ("[[backend]]\nurl = 'http://a'", "models of [[backend]] number 1"),
        ('[[backend]]\nmodels = ["a"]\nurl = "x"', "url of [[backend]] number 1"),
        ('[[backend]]\nmodels = ["a"]\n[[backend]]\nmodels = ["b", "a"]', "two backends are for a"),
        ("[backend]\nmodels = ['a']", "Write each under [[backend]]"),
        ("[policy]\nrsik = 0.1", "no key policy.rsik. Did you mean policy.risk?"),
        ("[admin]\nport = 8400", "admin.port and serve.port are the same"),
        ("[admin]\nport = 1\nhost = '0.0.0.0'", "admin.api_keys must name a key"),
    ],
)
def test_what_is_wrong_is_said_with_what_was_meant(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, text)
    assert said in f"{caught.value}"


def test_a_misspelt_variable_is_refused_with_what_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean LYNXSTOP_BUNDLE\?"):
        load(None, {}, {"LYNXSTOP_BUNDEL": "x"})


def test_the_log_names_the_backend(fleet: tuple[Proxied, MockServer, MockServer], caplog: Any) -> None:
    with caplog.at_level("INFO", logger="lynxstop.proxy"):
        ask(fleet[0].url, "small")
        eventually(lambda: any(record.getMessage() == "request" for record in caplog.records))
    [line] = [record.fields for record in caplog.records if record.getMessage() == "request"]
    assert line["backend"] == "small"
    assert json.dumps(line)
