"""Bundles go to the Hub and come back, through its real client and a small local server."""

import json
import re
import shutil
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.hub import known_files, pull
from lynxstop.cli import app
from lynxstop.errors import BundleError, ConfigError, LynxstopError, UpstreamError
from tests.support.small_hub import Hub, ask, serve

huggingface_hub = pytest.importorskip("huggingface_hub")
TOKEN = "hf_secret_of_the_test"


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    """One address for all tests: some versions of the library keep the first that they see."""
    made = serve(Hub())
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def hub(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()
    monkeypatch.setenv("HF_ENDPOINT", ask(server, monkeypatch, found))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle, with files beside it that are nobody's business."""
    folder = tmp_path / "bundle"
    shutil.copytree(shipped.BUNDLE, folder)
    (folder / "notes.txt").write_text("private")
    (folder / "certificates" / "prompts.jsonl").write_text("private")
    return folder


def command(*arguments: object) -> dict[str, object]:
    done = CliRunner().invoke(app, [str(part) for part in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert TOKEN not in done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_bundle_goes_and_comes_back(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    # when a bundle is pushed
    options = ["--base-model", "some/model", "--license", "mit", "--dataset", "some/data", "--private"]
    made = command("push", bundle, "me/bundle", *options, "--json")
    # then only what belongs to it has gone, in one commit, under the user's token
    files = hub.repositories["me/bundle"]
    assert str(made["commit"]).endswith(hub.sha("me/bundle"))
    assert hub.private["me/bundle"]
    own = [p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()]
    expected = set(own) - {"notes.txt", "certificates/prompts.jsonl"} | {".gitattributes"}
    assert set(files) == expected
    assert sum("/commit/" in path for _, path, _ in hub.requests) == 1
    assert {token for _, _, token in hub.requests} - {None} == {f"Bearer {TOKEN}"}
    # and the card is one that the Hub understands
    data = huggingface_hub.ModelCard(files["README.md"].decode()).data
    assert (data.base_model, data.license, data.datasets) == ("some/model", "mit", ["some/data"])
    assert data.library_name == "lynxstop"
    metrics = {result.metric_type for result in data.eval_results}
    assert metrics == {"roc_auc", "disagree", "exits", "thinking_tokens_saved"}
    assert any("95% interval" in result.metric_name for result in data.eval_results)
    # when it is pulled
    gone = len(hub.requests)
    pulled = command("pull", "me/bundle", tmp_path / "back", "--json")
    # then all files are of the commit whose sizes were looked at
    looked, *fetched = [path for _, path, _ in hub.requests[gone:]]
    assert looked.startswith("/api/models/me/bundle?")
    assert fetched
    assert all(hub.sha("me/bundle") in path for path in fetched)
    # and it is the same bundle, and nothing else is left behind
    assert pulled["risks"] == [0.01, 0.02, 0.05, 0.1]
    back = tmp_path / "back"
    assert Bundle.load(back).policy == Bundle.load(bundle).policy
    assert {p.relative_to(back).as_posix() for p in back.rglob("*") if p.is_file()} == expected - {
        ".gitattributes"
    }
    assert command("verify", back, "--json")["holds"] is True
    assert not list(tmp_path.glob(".back*"))


def test_what_is_stale_goes(hub: Hub, bundle: Path) -> None:
    stale, foreign = "certificates/risk-0.3-all-00000000.json", "examples/notebook.ipynb"
    hub.repositories["me/bundle"] = {stale: b"{}", foreign: b"{}"}
    command("push", bundle, "me/bundle", "--json")
    assert stale not in hub.repositories["me/bundle"]
    assert foreign in hub.repositories["me/bundle"]


def test_a_damaged_bundle_does_not_go(hub: Hub, bundle: Path) -> None:
    (bundle / "scores.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        CliRunner().invoke(app, ["push", str(bundle), "me/bundle"], catch_exceptions=False)
    assert hub.requests == []


def test_a_damaged_bundle_is_not_put_in_place(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    command("push", bundle, "me/bundle", "--json")
    files = hub.repositories["me/bundle"]
    files["probe.safetensors"] = files["probe.safetensors"][:-1] + b"x"
    with pytest.raises(BundleError, match="digest differs"):
        pull("me/bundle", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    # and what was there before stays
    with pytest.raises(BundleError, match="digest differs"):
        pull("me/bundle", bundle, force=True)
    assert Bundle.load(bundle)
    assert not list(tmp_path.glob(".b*"))


def test_what_is_there_is_replaced_on_demand_only(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    command("push", bundle, "me/bundle", "--json")
    with pytest.raises(ConfigError, match="is there already"):
        pull("me/bundle", bundle)
    (bundle / "policy.json").unlink()
    pull("me/bundle", bundle, force=True)
    assert Bundle.load(bundle)
    assert not (bundle / "notes.txt").exists()


def too_large(hub: Hub) -> None:
    hub.lie_about_size = 1 << 40


def no_bundle(hub: Hub) -> None:
    hub.repositories["me/bundle"] = {"README.md": b"hello"}


def nothing(hub: Hub) -> None:
    del hub.repositories["me/bundle"]


def broken(hub: Hub) -> None:
    hub.broken = True


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        (too_large, BundleError, "larger than a bundle"),
        (no_bundle, BundleError, "holds no bundle"),
        (nothing, UpstreamError, "HTTP 404"),
        (broken, UpstreamError, "HTTP 500"),
    ],
)
def test_trouble_at_the_hub_is_one_clear_error(
    hub: Hub, bundle: Path, tmp_path: Path, change: object, error: type[LynxstopError], complaint: str
) -> None:
    command("push", bundle, "me/bundle", "--json")
    change(hub)  # type: ignore[operator]
    with pytest.raises(error, match=complaint) as caught:
        pull("me/bundle", tmp_path / "back")
    assert not re.search(TOKEN, f"{caught.value} {caught.value.__cause__}")
    assert not (tmp_path / "back").exists()


def test_an_unreachable_hub_and_a_bad_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UpstreamError, match="did not do what was asked"):
        pull("me/bundle", tmp_path / "back")
    with pytest.raises(ConfigError, match="names no repository"):
        pull("a/b/c", tmp_path / "back")


def test_only_files_of_a_bundle_are_known() -> None:
    evil = ["../policy.json", "certificates/../x", "certificates/a/risk-1.json", "x.pkl", "pytorch_model.bin"]
    assert known_files([*evil, "policy.json", "certificates/risk-0.1-all-1.json"]) == [
        "certificates/risk-0.1-all-1.json",
        "policy.json",
    ]
