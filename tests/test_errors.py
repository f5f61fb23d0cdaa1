"""Errors say what to do."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.seal import DIGEST, seal
from lynxstop.calibration.certificate import Certificate
from lynxstop.cli import app
from lynxstop.errors import CalibrationError, FingerprintError, LynxstopError, MissingExtraError
from lynxstop.extras import need
from tests.support.servers import serving


def test_the_hint_follows_the_message() -> None:
    assert str(LynxstopError("Broken.", hint="Mend it.")) == "Broken. Mend it."


def test_a_missing_extra_names_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'lynxstop\[proxy\]'"):
        need("no_such_module_anywhere", "proxy")


@pytest.mark.parametrize(
    "words", ["demo", "calibrate nosuch nosuch --report r.html", "curve nosuch --report r.html"]
)
def test_what_a_report_needs_is_looked_for_first(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(shipped, "BUNDLE", Path("nosuch"))
    done = CliRunner().invoke(app, words.split())
    assert isinstance(done.exception, MissingExtraError)
    assert "lynxstop[report]" in str(done.exception.hint)


def test_the_tree_drawn_in_the_module_is_the_real_one() -> None:
    import lynxstop.errors as module

    classes = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, LynxstopError)]

    assert all(kind.__name__ in (module.__doc__ or "") for kind in classes)
    assert FingerprintError.__mro__[1].__name__ == "BundleError"


BAD_RECIPE = "[probe]\nlayerz = [1]\n"


@pytest.mark.parametrize(
    ("words", "complaint", "remedy"),
    [
        ("collect nosuch good.jsonl out", "no model folder nosuch", "Download the model"),
        ("collect nosuch missing.jsonl out", "no problem file missing.jsonl", "Check the path"),
        ("collect nosuch good.jsonl out --recipe nosuch", "no recipe 'nosuch'", "Shipped: "),
        ("collect nosuch good.jsonl out --recipe bad.toml", "wrong value at probe.layerz", ""),
        ("collect nosuch good.jsonl out --engine nosuch", "no engine 'nosuch'", "Engines: "),
        ("collect toy good.jsonl out --engine openai", "needs the server's address", "--base-url"),
        ("collect nosuch text.jsonl out", "prompt missing", "--prompt-column"),
        ("collect nosuch broken.jsonl out", "line 1: not valid JSON", ""),
        ("collect nosuch good.txt out", "not from 'good.txt'", "convert the file"),
        ("collect nosuch good.jsonl out --actors 2", "Options of Ray", "--engine ray"),
        ("certify nosuch good.jsonl", "1 problems are too few", "Give about"),
        ("certify nosuch good.jsonl --risk 5", "between 0 and 1", "Give 5%."),
        ("certify nosuch good.jsonl --loss nosuch", "no loss 'nosuch'", ""),
        ("certify nosuch good.jsonl --out good.jsonl", "cannot be written to", "--out"),
        ("train nosuch bundle", "no recorded data in nosuch", "lynxstop collect"),
        ("calibrate nosuch data", "no bundle at nosuch", "lynxstop train"),
        ("calibrate --risk 5%", "Give a bundle and recorded traces", "--scores"),
        ("calibrate --scores missing.csv --risk 5%", "no score table missing.csv", "Check the path"),
        ("run nosuch nosuch", "either one prompt or --problems", ""),
        ("run nosuch nosuch hello", "no bundle at nosuch", ""),
        ("evaluate nosuch", "no recorded data in nosuch", "lynxstop collect"),
        ("plan --risk 5% --expected-loss 6%", "cannot be certified at risk 0.05", "Raise the risk"),
        ("recipes nosuch", "no recipe 'nosuch'", "Shipped: "),
        ("doctor http://127.0.0.1:9", "127.0.0.1:9", ""),
        ("doctor folder", "'folder' is not the address of a server", "--model"),
        ("certify nosuch folder", "is a folder", "In it there are: good.jsonl"),
        ("certify nosuch empty.jsonl", "holds no problems", "one problem a line"),
        ("certify nosuch binary.jsonl", "not UTF-8", "Convert"),
        ("certify nosuch numbers.json", "a problem is an object", "Write it as"),
        ("certify {bundle} many.jsonl", "is a bundle, not a model folder", "config.json"),
        ("certify folder many.jsonl", "is not a model folder (config.json: No such file", "config.json"),
        ("certify {model} many.jsonl --loss harm", "needs gold answers", "--answer-column"),
        ("certify {model} many.jsonl --confidence 95", "between 0 and 1", "Give 95%."),
        ("certify {model} many.jsonl --confidence high", "is not a confidence", "0.95 or 95%"),
        ("certify m many.jsonl --base-url 127.0.0.1:9", "'127.0.0.1:9' is not the address", "http://"),
        (
            "certify m many.jsonl --base-url http://127.0.0.1:9",
            "127.0.0.1:9 cannot",
            "Start the server",
        ),
        ("collect {model} good.jsonl out --dtype nosuch", "no data type 'nosuch'", "float32"),
        ("collect {model} good.jsonl out --device cuda:99", "device 'cuda:99'", "leave it out"),
        ("train nosuch good.jsonl", "good.jsonl cannot be written to", "BUNDLE"),
        ("evaluate nosuch --csv good.jsonl/r", "good.jsonl cannot be written to", "--csv"),
        ("evaluate nosuch --report good.jsonl/r", "good.jsonl cannot be written to", "--report"),
        ("curve nosuch --report good.jsonl/r", "good.jsonl cannot be written to", "--report"),
        ("cues nosuch --out good.jsonl/r", "good.jsonl cannot be written to", "--out"),
        ("recipe nosuch --out good.jsonl/r", "good.jsonl cannot be written to", "--out"),
        ("recipe nosuch --out folder", "folder is a folder", "--out"),
        ("export nosuch nosuch nosuch good.jsonl/r", "good.jsonl cannot be written to", "OUT"),
        ("pull me/mine good.jsonl/r", "good.jsonl cannot be written to", "BUNDLE"),
        ("demo --report good.jsonl/r", "good.jsonl cannot be written to", "--report"),
        ("demo --rebuild --workdir good.jsonl", "good.jsonl cannot be written to", "--workdir"),
        ("calibrate {model} data", "no bundle at", "lynxstop train"),
        ("run {model} {model} hello", "no bundle at", "lynxstop train"),
        ("verify nosuch", "nosuch cannot be read", "Give a bundle"),
        ("plan --risk 0", "strictly between 0 and 1", "0.05 or 5%"),
        ("recipe {bundle}", "no tokenizer in", "tokenizer.json"),
    ],
)
def test_what_new_users_get_wrong_is_answered_by_one_sentence(
    words: str, complaint: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("good.jsonl", "good.txt"):
        Path(name).write_text('{"prompt": "7 + 5"}\n')
    Path("text.jsonl").write_text('{"text": "7 + 5"}\n')
    Path("broken.jsonl").write_text("{prompt: 7}\n")
    Path("bad.toml").write_text(BAD_RECIPE)
    Path("folder").mkdir()
    Path("folder", "good.jsonl").write_text('{"prompt": "7 + 5"}\n')
    Path("empty.jsonl").write_text("\n")
    Path("binary.jsonl").write_bytes(b"\xff\xfe\x00")
    Path("numbers.json").write_text("[1, 2]")
    Path("many.jsonl").write_text("".join(f'{{"prompt": "7 + {i}"}}\n' for i in range(300)))
    done = CliRunner().invoke(app, words.format(model=shipped.MODEL, bundle=shipped.BUNDLE).split())
    error = done.exception
    assert isinstance(error, LynxstopError), error
    assert complaint in f"{error.message} {error.hint}"
    assert remedy in str(error.hint) or remedy in error.message
    assert "\n" not in error.message.strip()


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "OPENAI_API_KEY"), (404, "with or without /v1")], ids=["key", "address"]
)
def test_a_server_that_refuses_is_named_with_the_remedy(status: int, remedy: str, tmp_path: Path) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b'{"error": {"message": "No."}}'})

    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(f'{{"prompt": "7 + {i}"}}\n' for i in range(300)))
    with serving(refuse, lifespan="off") as address:
        for command in (
            ["certify", "m", str(problems), "--base-url", address, "--out", str(tmp_path / "out")],
            [
                "collect",
                "m",
                str(problems),
                str(tmp_path / "data"),
                "--engine",
                "openai",
                "--base-url",
                address,
            ],
        ):
            error = CliRunner().invoke(app, command).exception
            assert isinstance(error, LynxstopError), error
            assert f"{address} cannot be asked" in error.message
            assert remedy in str(error.hint)


def test_a_certificate_with_an_impossible_seed_is_none(tmp_path: Path) -> None:
    source = next((shipped.BUNDLE / "certificates").glob("risk-*.json"))
    content = json.loads(source.read_text())
    content.pop(DIGEST, None)
    content["settings"]["seed"] = -1
    path = tmp_path / "risk-0.05-all-0.json"
    path.write_text(json.dumps(seal(content)))
    with pytest.raises(CalibrationError, match=r"settings\.seed"):
        Certificate.load(path)
