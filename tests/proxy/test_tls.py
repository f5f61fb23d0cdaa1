"""TLS on both sides: what the proxy serves with, and which servers it trusts."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from lynxstop.testing.server import MockServer
from tests.support.servers import command, eventually, program, proxied, serving

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "7 + 5 * 2"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for this machine, its key, and the authority."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for place, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(folder / "cert.pem", append=place > 0)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(folder / "other-key.pem")
    (folder / "text.pem").write_text("no certificate")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked
    (folder / "locked.pem").write_bytes(key.private_bytes(*form))
    return folder


def variables(files: Path, certificate: str = "cert.pem", key: str = "key.pem") -> dict[str, str]:
    return {
        "LYNXSTOP_SERVE_TLS_CERTIFICATE": str(files / certificate),
        "LYNXSTOP_SERVE_TLS_KEY": str(files / key),
    }


def test_the_command_serves_tls_and_nothing_else(files: Path, authority: trustme.CA) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with serving(MockServer()) as url, command("--upstream", url, **variables(files)) as (_, proxy, lines):
        assert proxy.startswith("https://")
        with httpx.Client(verify=trusting, timeout=60) as client:
            whole = client.post(proxy + CHAT, json=ASK).json()
            streamed = client.post(proxy + CHAT, json={**ASK, "stream": True}).content
            ready = client.get(proxy + "/ready").status_code
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(proxy + "/health", verify=ssl.create_default_context())
        with pytest.raises(httpx.TransportError):
            httpx.get(proxy.replace("https", "http") + "/health")
        eventually(lambda: len([line for line in lines if line["event"] == "request"]) == 2)

    assert "boxed" in whole["choices"][0]["message"]["content"]
    assert streamed.endswith(b"data: [DONE]\n\n")
    assert ready == 200


@pytest.mark.parametrize(
    ("certificate", "key", "named"),
    [
        ("missing.pem", "key.pem", "serve.tls_certificate cannot be read"),
        ("cert.pem", "missing.pem", "serve.tls_key cannot be read"),
        ("text.pem", "key.pem", "do not belong together"),
        ("cert.pem", "text.pem", "do not belong together"),
        ("cert.pem", "other-key.pem", "do not belong together"),
        ("cert.pem", "locked.pem", "without a password"),
    ],
)
def test_files_that_cannot_be_used_end_the_start_with_one_message(
    files: Path, certificate: str, key: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables(files, certificate, key).items():
        monkeypatch.setenv(name, value)
    line = program("proxy", "--port", "0", "--workers", "2")
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.PIPE
    )

    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert named in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.fixture
def https(files: Path) -> Iterator[str]:
    """The address of a server that speaks TLS."""
    pair = {"ssl_certfile": files / "cert.pem", "ssl_keyfile": files / "key.pem"}
    with serving(MockServer(), **pair) as url:
        yield url.replace("http://", "https://")


@pytest.fixture(params=["httpx", "aiohttp"])
def through(request: pytest.FixtureRequest) -> Callable[[str], httpx.Response]:
    """Ask a server through a proxy of its own, by either transport."""

    def ask(url: str) -> httpx.Response:
        with proxied(url, upstream={"transport": request.param}) as proxy:
            return httpx.post(proxy.url + CHAT, json=ASK, timeout=60)

    return ask


def test_a_server_is_trusted_by_the_authorities_of_the_environment(
    https: str, through: Callable[[str], httpx.Response], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = through(https)
    monkeypatch.setenv("SSL_CERT_FILE", str(files / "ca.pem"))
    known = through(https)

    assert unknown.status_code == 502
    assert unknown.json()["error"]["code"] == "upstream_tls"
    assert "SSL_CERT_FILE" in unknown.json()["error"]["message"]
    assert known.status_code == 200, known.text
    assert "boxed" in known.json()["choices"][0]["message"]["content"]


def test_a_certificate_of_another_name_is_not_trusted(
    https: str, through: Callable[[str], httpx.Response], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(files / "ca.pem"))
    answer = through(https.replace("127.0.0.1", "localhost"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_tls")


def test_https_to_a_server_of_http_says_so(through: Callable[[str], httpx.Response]) -> None:
    with serving(MockServer()) as url:
        answer = through(url.replace("http://", "https://"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_tls")
    assert "does not speak TLS" in answer.json()["error"]["message"]
