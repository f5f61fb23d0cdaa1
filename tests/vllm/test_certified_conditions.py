"""Requests outside the certified conditions, and expired levels: no engine needed."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lynxstop.artifacts.certified import Certified
from lynxstop.artifacts.expiry import ExpiryDates
from lynxstop.core.conditions import Conditions, Uncertified
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.engines.vllm.request_options import RequestOptions, RequestOptionsReader
from lynxstop.engines.vllm.settings import PluginSettings, read_settings
from lynxstop.errors import ConfigError
from tests.support.byte_vocabulary import byte_tokenizer

CERTIFIED = Conditions(0.9, 1.0, 0, 512)
POLICY = StopPolicy((1,), (Level(0.05, 2.0), Level(0.1, 1.0), Level(0.1, 0.5, "easy")))
DAY = timedelta(days=1)


def read(
    served: Conditions,
    args: dict[str, Any] | None = None,
    *,
    uncertified: Uncertified = Uncertified.THINK,
    departures: tuple[str, ...] = (),
    dates: ExpiryDates | None = None,
) -> RequestOptions:
    settings = PluginSettings(uncertified=uncertified)
    certified = Certified(CERTIFIED, departures, dates or ExpiryDates())
    reader = RequestOptionsReader(settings, POLICY, 0.05, certified)
    return reader.read(args, served=served)


def test_a_request_inside_is_stopped() -> None:
    assert read(CERTIFIED) == RequestOptions(True, 2.0)


@pytest.mark.parametrize("args", [None, {"lynxstop_risk": 0.1}, {"lynxstop_mode": "shadow"}])
def test_a_request_outside_thinks(args: dict[str, Any] | None) -> None:
    found = read(Conditions(1.3), args)
    assert (found.watched, found.threshold, found.departures) == (False, math.inf, ("temperature",))


def test_a_request_outside_is_stopped_where_the_operator_says_so() -> None:
    found = read(Conditions(1.3, max_tokens=100), uncertified=Uncertified.STOP)
    assert (found.watched, found.threshold) == (True, 2.0)
    assert found.departures == ("temperature", "max_tokens")


def test_a_request_that_asks_for_no_level_departs_from_nothing() -> None:
    assert read(Conditions(1.3), {"lynxstop_risk": "off"}).departures == ()


def test_what_the_engine_itself_changes_departs_in_every_request() -> None:
    assert read(CERTIFIED, departures=("dtype",)).departures == ("dtype",)


@pytest.mark.parametrize(
    ("ago", "grace", "gone"),
    [(-1, 0, False), (1, 0, True), (1, 2, False), (3, 2, True)],
)
def test_an_expired_level_stops_nothing(ago: int, grace: int, gone: bool) -> None:
    # given a level for a group that expires, and one for all requests that does not
    dates = ExpiryDates({(0.1, "easy"): datetime.now(UTC) - ago * DAY}, grace * DAY)
    # when requests ask for each
    of_group = read(CERTIFIED, {"lynxstop_risk": 0.1, "lynxstop_group": "easy"}, dates=dates)
    of_all = read(CERTIFIED, {"lynxstop_risk": 0.1, "lynxstop_group": "other"}, dates=dates)
    # then the one thinks to the end after its grace, and the other is stopped
    assert of_group.departures == (("expired",) if gone else ())
    assert of_group.watched is not gone
    assert of_all == RequestOptions(True, 1.0)


@pytest.mark.parametrize("group", [None, "easy"])
def test_a_request_gets_the_level_of_its_sampling(group: str | None) -> None:
    # given levels of the bundle's own sampling, and of a further one, which expires
    far = Conditions(1.3, 0.95, 0, 512)
    levels = (Level(0.05, 2.0), Level(0.05, 3.0, sampling=far), Level(0.05, 4.0, "easy", far))
    policy = StopPolicy((1,), levels)
    dates = ExpiryDates({(0.05, "easy, temperature 1.3, top_p 0.95"): datetime.now(UTC) - DAY})
    reader = RequestOptionsReader(PluginSettings(), policy, 0.05, Certified(CERTIFIED, (), dates))
    args = {} if group is None else {"lynxstop_group": group}
    # when requests of both, and one that its collector draws at the further one, are read
    own, others = reader.read(args, served=CERTIFIED), reader.read(args, served=far)
    sampling = {
        "temperature": 1.3,
        "top_p": 0.95,
        "top_k": 0,
        "max_tokens": 512,
        "answer_tokens": 8,
        "seed": 1,
    }
    draw = {"lynxstop_draw": {"request": "a", "start": 0, "sampling": sampling}}
    drawn = reader.read({**args, **draw}, served=CERTIFIED)
    # then each is stopped at its own level, unless that has expired; any other sampling departs
    assert own == RequestOptions(True, 2.0)
    if group is None:
        assert others == RequestOptions(True, 3.0)
        assert (drawn.threshold, drawn.departures) == (3.0, ())
    else:
        assert others.departures == drawn.departures == ("expired",)
    assert reader.read(args, served=Conditions(1.0)).departures == ("temperature",)


def test_settings_name_what_is_done() -> None:
    found = read_settings({"lynxstop": {"bundle": "b", "uncertified": "stop", "grace_days": 1.5}}, {})
    assert found is not None
    assert (found.uncertified, found.grace) == (Uncertified.STOP, 1.5 * DAY)
    found = read_settings(None, {"LYNXSTOP_BUNDLE": "b", "LYNXSTOP_GRACE_DAYS": "2"})
    assert found is not None
    assert (found.uncertified, found.grace) == (Uncertified.THINK, 2 * DAY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"uncertified": "maybe"},
        {"grace_days": -1},
        {"grace_days": "soon"},
        {"grace_days": 1e300},
        {"grace_days": True},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        read_settings({"lynxstop": {"bundle": "b"} | wrong}, {})


@pytest.mark.parametrize("uncertified", Uncertified)
def test_what_no_exit_goes_together_with_thinks_whatever_the_operator_says(uncertified: Uncertified) -> None:
    # given a server whose exits write a text
    settings = PluginSettings(uncertified=uncertified)
    reader = RequestOptionsReader(settings, POLICY, 0.05, Certified(CERTIFIED), ("\n</think>",))
    # when requests ask for what an exit would break, or do not
    held = reader.read(None, served=CERTIFIED, asked={"min_tokens": 200})
    own = reader.read({"lynxstop_budget": 5}, served=CERTIFIED, asked={"stop": ["</th"]})
    off = reader.read(
        {"lynxstop_risk": "off", "lynxstop_budget": 5}, served=CERTIFIED, asked={"min_tokens": 200}
    )
    outside = reader.read({"lynxstop_budget": 5}, served=Conditions(0.1), asked={"min_tokens": 200})
    free = reader.read(None, served=CERTIFIED, asked={"min_tokens": 0, "stop": ["Q:"]})
    # then the former think to the end, a budget of their own included, at whatever level
    assert (off.watched, off.budget, off.departures) == (False, None, ("min_tokens",))
    assert (outside.watched, outside.budget) == (False, None)
    assert outside.departures == ("temperature", "min_tokens")
    assert (held.watched, held.departures) == (False, ("min_tokens",))
    assert (own.watched, own.budget, own.departures) == (False, None, ("stop",))
    assert free == RequestOptions(True, 2.0)


def test_a_stop_string_is_compared_with_the_exit_as_requests_see_it() -> None:
    # given an exit whose closing token is special, so that vLLM leaves it out of the text
    pytest.importorskip("torch")
    from lynxstop.engines.vllm.served_bundle import exit_texts

    tokenizer = byte_tokenizer([])
    tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})
    texts = exit_texts(tokenizer, tokenizer.encode("\n</think>\nIt is", add_special_tokens=False))
    reader = RequestOptionsReader(PluginSettings(), POLICY, 0.05, Certified(CERTIFIED), texts)
    # when requests have stop strings, then those that either form completes keep their thinking
    for stop, cause in (("\n\nIt", ("stop",)), ("</think>", ("stop",)), ("\nIt is 4", ())):
        assert reader.read(None, served=CERTIFIED, asked={"stop": [stop]}).departures == cause, stop


@pytest.mark.parametrize(("args", "budget"), [({}, 5), ({"lynxstop_risk": "off"}, 5)])
def test_a_budget_of_its_own_holds_at_every_level(args: dict[str, Any], budget: int) -> None:
    found = read(CERTIFIED, {**args, "lynxstop_budget": 5})
    assert (found.watched, found.stops, found.budget) == (True, True, budget)


@pytest.mark.parametrize(
    ("structured", "args", "causes"),
    [
        (True, None, ("structured_output",)),
        (False, {"lynxstop_tools": 1}, ("tools",)),
        (True, {"lynxstop_tools": True, "lynxstop_budget": 9}, ("structured_output", "tools")),
        (False, {"lynxstop_tools": False}, ()),
    ],
)
def test_answers_in_a_form_are_not_certified_and_exits_only_close_their_thinking(
    structured: bool, args: dict[str, Any] | None, causes: tuple[str, ...]
) -> None:
    def found(uncertified: Uncertified) -> RequestOptions:
        settings = PluginSettings(uncertified=uncertified)
        reader = RequestOptionsReader(settings, POLICY, 0.05, Certified(CERTIFIED))
        return reader.read(args, structured=structured, served=CERTIFIED)

    thinks, stops = found(Uncertified.THINK), found(Uncertified.STOP)
    assert thinks.departures == stops.departures == causes
    assert thinks.threshold == (math.inf if causes else 2.0)
    assert (stops.threshold, stops.structured) == (2.0, bool(causes))


def test_tools_are_there_or_not() -> None:
    with pytest.raises(ConfigError, match="lynxstop_tools"):
        read(CERTIFIED, {"lynxstop_tools": "search"})


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "many"])
def test_a_budget_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="lynxstop_budget"):
        read(CERTIFIED, {"lynxstop_budget": wrong})


@pytest.mark.parametrize(
    "wrong", [10**400, [0.05], "nan", True], ids=["huge", "list", "not a number", "bool"]
)
def test_a_risk_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"[Rr]isk"):
        read(CERTIFIED, {"lynxstop_risk": wrong})


@pytest.mark.parametrize(
    ("given", "name"), [({"loop_guard": 1}, "loop_guard"), ({"close_open_thinking": "perhaps"}, "close_open")]
)
def test_settings_of_the_guards_are_checked(given: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read_settings({"lynxstop": {"bundle": "b"} | given}, {})
    found = read_settings(
        None, {"LYNXSTOP_BUNDLE": "b", "LYNXSTOP_LOOP_GUARD": "4", "LYNXSTOP_CLOSE_OPEN_THINKING": "1"}
    )
    assert found is not None
    assert (found.loop_guard, found.close_open_thinking) == (4, True)
