"""`lynxstop mock-upstream`: a server of the OpenAI API with a toy model, to try clients and proxies on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lynxstop.extras import need


def mock_upstream(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    delay: Annotated[float, typer.Option(help="Seconds per token.")] = 0.0,
    first_delay: Annotated[float, typer.Option(help="Seconds before the first token.")] = 0.0,
    checks: Annotated[
        int | None, typer.Option(help="How often the model checks itself; by default it depends.")
    ] = None,
    reasoning: Annotated[
        str, typer.Option(help="Field of the thinking: reasoning, reasoning_content, thinking, or raw.")
    ] = "reasoning",
    opened: Annotated[bool, typer.Option("--opened", help="The chat template opens the thinking.")] = False,
    logprobs: Annotated[bool, typer.Option(help="Give log-probabilities when asked for.")] = True,
    resume: Annotated[bool, typer.Option(help="Understand continue_final_message.")] = True,
    completions: Annotated[bool, typer.Option(help="Offer /v1/completions.")] = True,
    tokens_per_event: Annotated[int, typer.Option(help="Tokens in one streamed event.")] = 1,
    framing: Annotated[str, typer.Option(help="Line ends of events: lf, crlf, cr or mixed.")] = "lf",
    pings: Annotated[int, typer.Option(help="A comment after every so many events.")] = 0,
    split: Annotated[int, typer.Option(help="Write so many bytes at a time; 0: whole events.")] = 0,
    fault: Annotated[str, typer.Option(help="What goes wrong; an unknown one names them all.")] = "none",
) -> None:
    """Serve a toy reasoning model over HTTP that thinks, checks itself and fails on demand.

    It works out sums like 7 + 5 * 2, thinks aloud with cue words and sometimes revises its answer. The header
    `x-mock: delay=0.01, fault=mid-answer` turns knobs for one request; GET /stats tells what each request
    asked for and how many tokens were produced for it.

    **Examples**

    - `lynxstop mock-upstream --port 8000 --delay 0.02`

    - `lynxstop mock-upstream --reasoning raw --framing crlf --pings 5`
    """
    uvicorn: Any = need("uvicorn", "proxy")
    need("orjson", "proxy")
    from lynxstop.cli._checks import check_port
    from lynxstop.testing.server import MockServer
    from lynxstop.testing.settings import read_settings

    settings = read_settings(
        {
            "delay": delay,
            "first_delay": first_delay,
            "checks": checks,
            "reasoning": reasoning,
            "opened": opened,
            "logprobs": logprobs,
            "resume": resume,
            "completions": completions,
            "tokens_per_event": tokens_per_event,
            "framing": framing,
            "pings": pings,
            "split": split,
            "fault": fault,
        }
    )
    check_port(host, port)
    uvicorn.run(MockServer(settings), host=host, port=port, log_level="warning")
