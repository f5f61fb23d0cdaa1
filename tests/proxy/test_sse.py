"""Events come out whole, in order and byte for byte, wherever the stream was cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynxstop.errors import UpstreamError
from lynxstop.remote.http.sse import EventSplitter, event_data

ENDS = [b"\n", b"\r\n", b"\r"]
LINES = st.sampled_from([b"data: {}", b"data:a\xff", b": ping", b"event: x", b"data", b"id: 3", b"data:  b"])
EVENTS = st.lists(
    st.tuples(st.lists(LINES, min_size=1, max_size=3), st.sampled_from(ENDS), st.sampled_from(ENDS)),
    min_size=1,
    max_size=6,
)


def written(events: list[tuple[list[bytes], bytes, bytes]]) -> list[bytes]:
    """Write events; a lone CR in front of LF would be one line end, and is written as CRLF."""
    frames = []
    for lines, end, last in events:
        last = b"\r\n" if end == b"\r" and last == b"\n" else last
        frames.append(end.join(lines) + end + last)
    return frames


@given(events=EVENTS, data=st.data())
def test_events_are_the_same_at_any_cuts(
    events: list[tuple[list[bytes], bytes, bytes]], data: st.DataObject
) -> None:
    frames = written(events)
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    splitter = EventSplitter()

    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])

    # The last event may still wait for what shows that its CR is a line end.
    assert b"".join(found) + splitter.rest == stream
    found += splitter.feed(b"\x00")
    assert found == frames


QUICK = [b"data: x\n\n", b'data: {"a": 1}\n\n']
SLOW = [
    b"\n", b"\r", b": ping\n\n", b"data:c\n\n", b"data: a\ndata: b\n\n", b"data: a\rdata: b\n\n",
    b"data: a\r\n\r\n", b"event: error\ndata: x\n\n", b"data: \n\n", b"data\n\n",
]  # fmt: skip


@settings(max_examples=1000)
@given(
    events=st.lists(st.one_of(*map(st.just, QUICK * 6), st.sampled_from(SLOW)), max_size=12),
    data=st.data(),
)
def test_data_are_those_of_the_whole_events_at_any_cuts(events: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    quick, slow = EventSplitter(), EventSplitter()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        expected = [event_data(event) for event in slow.feed(stream[start:end])]
        assert quick.data(stream[start:end]) == [one for one in expected if one is not None]
        assert quick.rest == slow.rest


def test_the_rest_after_whole_events_is_limited_too() -> None:
    splitter = EventSplitter(limit=100)
    assert splitter.data(b"data: a\n\ndata: b\n\ndata: c") == [b"a", b"b"]
    with pytest.raises(UpstreamError, match="event_bytes"):
        splitter.data(b"c\n\ndata: d\n\ndata: " + b"x" * 100)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
def test_every_byte_boundary(end: bytes) -> None:
    frames = [b"data: 1" + end, b": ping" + end, b'data: {"a": "\xc3\xa9"}' + end]
    stream = b"".join(frames)
    for cut in range(len(stream) + 1):
        splitter = EventSplitter()
        assert [*splitter.feed(stream[:cut]), *splitter.feed(stream[cut:]), *splitter.feed(b"x")] == frames
    splitter = EventSplitter()
    single = [event for i in range(len(stream)) for event in splitter.feed(stream[i : i + 1])]
    assert [*single, *splitter.feed(b"x")] == frames


def test_a_huge_line_is_whole_and_a_larger_one_is_refused() -> None:
    line = b"data: " + b"x" * 2**20
    splitter = EventSplitter(limit=2**21)
    assert [event for i in range(0, len(line), 1000) for event in splitter.feed(line[i : i + 1000])] == []
    assert splitter.feed(b"\n\n") == [line + b"\n\n"]
    with pytest.raises(UpstreamError, match="event_bytes"):
        splitter.feed(line * 3)


def test_a_megabyte_that_arrives_byte_by_byte_takes_linear_time() -> None:
    splitter = EventSplitter()
    for _ in range(2**20):
        splitter.feed(b"x")
    assert len(splitter.feed(b"\n\n")) == 1


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\r\n\r\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"event: message\ndata: a\ndata: b\n\n", b"a\nb"),
        (b'event: e\ndata: {"a":\ndata: 1}\n\n', b'{"a":\n1}'),
        (b"event: ping\ndata: a\n\n", None),
        (b"data\n\n", b""),
        (b"data: a\rdata: b\r\r", b"a\nb"),
        (b": ping\n\n", None),
        (b"database: x\n\n", None),
        (b"\n\ndata: x\n\n", b"x"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data
