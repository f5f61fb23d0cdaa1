"""Several choices of one request: each is watched, stopped and continued by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from lynxstop.errors import UpstreamError
from lynxstop.proxy.choices import MOST, Choices, splits
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.events import as_json
from tests.support.servers import eventually
from tests.support.watching import watching

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]
BODY: dict[str, Any] = {"model": "toy", "messages": MESSAGES, "seed": 3, "n": 3}
PROMPT = "<|user|>\nWhat is 7 + 5 * 2 - 3?\n<|assistant|>\n<think>"


def ask(url: str, path: str = CHAT, **more: Any) -> Any:
    answer = httpx.post(f"{url}{path}", json={**BODY, **more}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def alone(url: str, place: int, **more: Any) -> Any:
    return ask(url, n=1, seed=3 + place, **more)


def streamed(url: str, path: str = CHAT, **more: Any) -> list[dict[str, Any]]:
    body = {**BODY, "stream": True, **more}
    text = httpx.post(f"{url}{path}", json=body, timeout=60).text
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in ("exit", "stopped", "thinking_tokens", "cue")}


def test_each_choice_is_what_a_request_of_its_own_gets(proxy):
    found, own = ask(proxy.url), [alone(proxy.url, place) for place in range(3)]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    messages = [choice["message"] for choice in found["choices"]]
    assert messages == [one["choices"][0]["message"] for one in own]
    assert [choice["finish_reason"] for choice in found["choices"]] == ["stop"] * 3
    reports = found["lynxstop"]["choices"]
    assert list(map(without_times, reports)) == [without_times(one["lynxstop"]) for one in own]
    assert all(report["stopped"] for report in reports)


def test_usage_has_the_prompt_once_and_all_that_was_generated(proxy):
    usage, own = ask(proxy.url)["usage"], [alone(proxy.url, place)["usage"] for place in range(3)]
    assert usage["prompt_tokens"] == own[0]["prompt_tokens"]
    assert usage["completion_tokens"] == sum(one["completion_tokens"] for one in own)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    details = usage["completion_tokens_details"]
    assert details["reasoning_tokens"] == sum(
        one["completion_tokens_details"]["reasoning_tokens"] for one in own
    )
    assert details["lynxstop_exit"] == "score"


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_has_the_same_choices(proxy, usage):
    whole = ask(proxy.url)
    events = streamed(proxy.url, stream_options={"include_usage": usage})
    assert len({event["id"] for event in events}) == 1
    for place, choice in enumerate(whole["choices"]):
        parts = [one for event in events for one in event["choices"] if one["index"] == place]
        said = {
            name: "".join(part["delta"].get(name) or "" for part in parts)
            for name in ("reasoning", "content")
        }
        assert said == {name: choice["message"][name] for name in said}
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["stop"]
    *before, last = events
    assert all("lynxstop" not in event and event["choices"] for event in before)
    assert last["lynxstop"] == whole["lynxstop"]
    assert last.get("usage") == (whole["usage"] if usage else None)
    assert len(last["choices"]) == (0 if usage else 1)


def test_the_server_stops_each_choice_by_itself(mock, proxy):
    server = mock[1]
    server.records.clear()
    found = ask(proxy.url)
    eventually(lambda: not any(record.outcome == "active" for record in server.records))
    first = [record for record in server.records if record.path == CHAT]
    assert sorted(record.body["seed"] for record in first) == [3, 4, 5]
    assert all("n" not in record.body for record in first)
    assert len(server.records) - len(first) == 3
    reports = found["lynxstop"]["choices"]
    written = [
        httpx.post(f"{mock[0]}{CHAT}", json={**BODY, "seed": 3 + place, "n": 1}, timeout=60).json()
        for place in range(3)
    ]
    full = [one["usage"]["completion_tokens_details"]["reasoning_tokens"] for one in written]
    assert all(report["thinking_tokens"] < length for report, length in zip(reports, full, strict=True))


def test_a_choice_that_takes_no_exit_thinks_to_its_end(mock):
    """The threshold lies between the scores of the choices, so that some exit and some do not."""
    with watching(mock[0]) as made:
        scores = sorted(report["score"] for report in ask(made.url)["lynxstop"]["choices"])
    assert scores[0] < scores[-1]
    with watching(mock[0], threshold=(scores[0] + scores[-1]) / 2) as made:
        found = ask(made.url)
        own = [alone(made.url, place) for place in range(3)]
    reports = found["lynxstop"]["choices"]
    assert list(map(without_times, reports)) == [without_times(one["lynxstop"]) for one in own]
    assert len({report["thinking_tokens"] for report in reports}) > 1
    assert [choice["message"] for choice in found["choices"]] == [one["choices"][0]["message"] for one in own]


def test_completions_have_choices_too(proxy):
    more = {"prompt": PROMPT, "max_tokens": 2000, "logprobs": 1}
    found = ask(proxy.url, "/v1/completions", **more)
    texts = [choice["text"] for choice in found["choices"]]
    own = [ask(proxy.url, "/v1/completions", **more, n=1, seed=3 + place) for place in range(3)]
    assert [choice["logprobs"] for choice in found["choices"]] == [
        one["choices"][0]["logprobs"] for one in own
    ]
    assert texts == [one["choices"][0]["text"] for one in own]
    assert len(found["lynxstop"]["choices"]) == 3
    for place in range(3):
        parts = [
            part
            for event in streamed(proxy.url, "/v1/completions", **more)
            for part in event["choices"]
            if part["index"] == place
        ]
        assert "".join(part["text"] for part in parts) == texts[place]
        offsets = [offset for part in parts if part["logprobs"] for offset in part["logprobs"]["text_offset"]]
        assert offsets == found["choices"][place]["logprobs"]["text_offset"]


def test_every_choice_is_counted(proxy):
    def exits() -> float:
        return proxy.count("lynxstop_exits_total", reason="score", mode="stop")

    before = exits()
    ask(proxy.url)
    eventually(lambda: exits() == before + 3)


def test_openais_client_reads_them(proxy):
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0)
    with client.chat.completions.stream(model="toy", messages=MESSAGES, n=2, seed=3) as stream:  # type: ignore[arg-type]
        for _ in stream:
            pass
        found = stream.get_final_completion()
    assert [choice.index for choice in found.choices] == [0, 1]
    assert all("boxed" in str(choice.message.content) for choice in found.choices)


def test_a_client_that_goes_ends_all_choices(mock, proxy):
    server = mock[1]
    server.records.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{proxy.url}{CHAT}", json=BODY, headers={"x-mock": "delay=0.02"}, timeout=0.3)
    eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
    eventually(lambda: not any(record.outcome == "active" for record in server.records))
    assert {record.outcome for record in server.records} == {"aborted"}


@pytest.mark.parametrize("fault", ["before-headers", "status-429"])
def test_a_server_that_fails_is_reported_once(mock, proxy, fault):
    answer = httpx.post(f"{proxy.url}{CHAT}", json=BODY, headers={"x-mock": f"fault={fault}"}, timeout=30)
    assert answer.status_code == (502 if fault == "before-headers" else 429)
    eventually(lambda: not any(record.outcome == "active" for record in mock[1].records))


def test_one_choice_that_fails_ends_the_others():
    class Source:
        usage = None
        upstream_tokens = 0

        def __init__(self, fails: bool) -> None:
            self.fails, self.closed = fails, False

        async def bursts(self):
            try:
                yield [{"id": "a", "choices": [{"index": 0}]}]
                if self.fails:
                    raise UpstreamError("The server broke off.", code="upstream_died")
                await asyncio.sleep(60)
            finally:
                self.closed = True

    async def main() -> tuple[list[Source], int]:
        sources, given = [Source(False), Source(True)], 0
        try:
            async for burst in Choices(sources).bursts():
                given += len(burst)
        except UpstreamError:
            return sources, given
        raise AssertionError

    sources, given = asyncio.run(main())
    assert given == 2
    assert all(source.closed for source in sources)


def test_the_first_event_is_of_the_first_choice() -> None:
    """OpenAI's client fails on a stream that begins with another."""

    class Source:
        usage, upstream_tokens = None, 0

        def __init__(self, wait: float | None) -> None:
            self.wait = wait

        async def bursts(self):
            if self.wait is None:
                return
            await asyncio.sleep(self.wait)
            for _ in range(2):
                yield [{"id": "a", "choices": [{"index": 0}]}]

    async def places(*waits: float | None) -> list[int]:
        bursts = Choices([Source(wait) for wait in waits]).bursts()
        return [as_json(event)["choices"][0]["index"] async for burst in bursts for event in burst]

    assert asyncio.run(places(0.05, 0, 0.02)) == [0, 1, 1, 2, 2, 0]
    assert asyncio.run(places(0, 0))[0] == 0
    assert asyncio.run(places(None, 0)) == [1, 1]


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({"n": 2}, 2),
        ({"n": MOST}, MOST),
        ({"n": MOST + 1}, 1),
        ({"n": 10**9}, 1),
        ({"n": 1}, 1),
        ({"n": True}, 1),
        ({"n": 2.0}, 1),
        ({"n": "2"}, 1),
        ({"n": None}, 1),
        ({"n": 2, "temperature": 0}, 1),
        ({"n": 2, "temperature": 0.9}, 2),
    ],
)
def test_what_is_split(more, count):
    assert splits({**BODY, **more}, Vllm()) == count
    # Not known of this server: its prompt would be computed again for each choice.
    assert splits({**BODY, **more}, LlamaCpp()) == 1


@pytest.mark.parametrize(
    "more", [{"n": MOST + 1}, {"n": 2, "temperature": 0}, {"n": 2, "use_beam_search": True}, {"n": 0}]
)
def test_what_is_not_split_passes_through_and_is_counted(proxy, more):
    before = proxy.count("lynxstop_passthrough_total", cause="several_choices")
    httpx.post(f"{proxy.url}{CHAT}", json={**BODY, **more}, timeout=60)
    assert proxy.count("lynxstop_passthrough_total", cause="several_choices") == before + 1
