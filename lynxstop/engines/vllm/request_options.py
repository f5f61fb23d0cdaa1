"""What one request asked for: its level, mode and recording, from `extra_args` (`vllm_xargs` over HTTP)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.certified import Certified
from lynxstop.core.conditions import Conditions, Uncertified
from lynxstop.core.exits import Mode
from lynxstop.core.no_exit import why_no_exit
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.types import Sampling
from lynxstop.engines.torch.random import uniforms
from lynxstop.engines.vllm.settings import OFF, PluginSettings, parse_mode, parse_risk
from lynxstop.errors import ConfigError

PREFIX = "lynxstop_"
_TAG = re.compile("[0-9a-f]{32}")
_KNOWN = (
    "lynxstop_budget",
    "lynxstop_draw",
    "lynxstop_group",
    "lynxstop_mode",
    "lynxstop_record",
    "lynxstop_report",
    "lynxstop_risk",
    "lynxstop_statistics",
    "lynxstop_tools",
)


@dataclass(frozen=True)
class Draw:
    """Random numbers of a request's own; see `lynxstop.engines.vllm.seeded_sampler`.

    Parameters
    ----------
    request : str
        Its id among those of one seed.
    start : int
        Output position of the first token: greater than 0 for an answer after an exit of a recorded trace.
    sampling : Sampling
        How tokens are drawn, and the seed.
    """

    request: str
    start: int
    sampling: Sampling

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), one per output token from `start` on."""
        return uniforms(self.sampling.seed, self.request, self.sampling.max_tokens + 1)[self.start :]


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What holds for a request.

    Parameters
    ----------
    watched : bool
        False for a request that is left alone altogether, its budget included.
    threshold : float
        Exit iff the score exceeds it.
    budget : int, optional
        Thinking tokens after which to exit whatever the score.
    stops : bool
        False in shadow mode: stops are decided and counted, never forced.
    record : str, optional
        Name under which its cues are recorded; "" has one made up, None does not record.
    structured : bool
        Whether a grammar or a choice of tools follows the thinking block: the forced sequence then ends with
        the block.
    statistics : int
        Number of the request's first tokens whose distributions are recorded; cues are recorded besides.
    draw : Draw, optional
        Random numbers of the request's own; vLLM's where None.
    departures : tuple of str
        What lies outside the certified conditions, for a request that asked for a level; `watched` and
        `threshold` already follow what the operator chose for such requests.
    report : str, optional
        Name under which the server asks for what was decided; see
        `lynxstop.engines.vllm.exit_reports`.
    ends : frozenset of int
        Tokens that end its text. vLLM may have computed rows after one by the time that it sees it.
    limit : int, optional
        Most tokens of its prompt and output together, which accepted drafts may go beyond.
    """

    watched: bool
    threshold: float = math.inf
    budget: int | None = None
    stops: bool = True
    record: str | None = None
    structured: bool = False
    statistics: int = 0
    draw: Draw | None = None
    departures: tuple[str, ...] = ()
    report: str | None = None
    ends: frozenset[int] = frozenset()
    limit: int | None = None


UNWATCHED = RequestOptions(watched=False)


class RequestOptionsReader:
    """Reads the options of requests.

    Parameters
    ----------
    settings : PluginSettings
        Defaults of the server.
    policy : StopPolicy
        Knows the certified levels.
    default_risk : float, optional
        The bundle's own default.
    certified : Certified, optional
        What the levels were certified for; requests are not compared with it where None.
    exit_texts : collection of str
        What an exit writes, with and without special tokens: a request may be shown either.

    Raises
    ------
    ConfigError
        When the server's default risk is not certified.
    """

    def __init__(
        self,
        settings: PluginSettings,
        policy: StopPolicy,
        default_risk: float | None,
        certified: Certified | None = None,
        exit_texts: Collection[str] = ("",),
    ) -> None:
        self._policy = policy
        self._exit_texts = exit_texts
        self._certified = certified
        self._thinks = settings.uncertified is Uncertified.THINK
        self._records = settings.record is not None
        self._mode = settings.mode
        self._by_recipe = settings.recipe is not None
        risk = default_risk if settings.risk is None else settings.risk
        self.default_risk: float | str = OFF if risk is None else risk
        self._default = self._options(self.default_risk, self._mode, "" if self._records else None)

    def read(
        self,
        extra_args: Mapping[str, object] | None,
        *,
        structured: bool = False,
        served: Conditions | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> RequestOptions:
        """Return the options of a request.

        Parameters
        ----------
        extra_args : mapping, optional
            Arguments of the request; those of others are passed over.
        structured : bool
            Whether a grammar takes over after the thinking block.
        served : Conditions, optional
            How its tokens are chosen; not compared with the certified conditions where None.
        asked : mapping, optional
            Its settings that an exit may not go together with; see `lynxstop.core.no_exit`.

        Raises
        ------
        ConfigError
            On an unknown key, an uncertified risk (the message lists the certified ones), an unknown mode,
            or a request to record where the server does not.
        """
        given = {key: value for key, value in (extra_args or {}).items() if key.startswith(PREFIX)}
        if unknown := sorted(set(given) - set(_KNOWN)):
            raise ConfigError(
                f"Unknown arguments: {', '.join(unknown)}.", hint=f"There are: {', '.join(_KNOWN)}."
            )
        options, risk, group, mode = self._default, self.default_risk, None, self._mode
        forms = ("structured_output",) * structured
        if given:
            risk = parse_risk(given["lynxstop_risk"]) if "lynxstop_risk" in given else risk
            mode = parse_mode(given["lynxstop_mode"]) if "lynxstop_mode" in given else mode
            record = self._record(given["lynxstop_record"]) if "lynxstop_record" in given else options.record
            group = _group(given.get("lynxstop_group"))
            forms += ("tools",) * _switch("lynxstop_tools", given.get("lynxstop_tools", False))
            options = self._options(risk, mode, record, group)
            options = _collecting(options, given)
        if served is not None and isinstance(risk, float) and options.watched:
            if options.draw is not None:
                # Drawn by its collector; its limit is vLLM's own.
                served = replace(Conditions.of(options.draw.sampling), max_tokens=served.max_tokens)
            level = self._policy.level(risk, group, served)
            if level.sampling is not None:
                options = replace(options, threshold=level.threshold)
            # An answer after the whole exit text, which no form can begin with, is what was certified.
            served = replace(served, altered=(*served.altered, *forms))
            options = self._compare(options, served, level)
        if "lynxstop_budget" in given:
            options = _limited(options, given["lynxstop_budget"], mode)
        if options.watched and (no_exit := self._no_exit(asked)) is not None:
            options = _thinking(options, (*options.departures, no_exit))
        if "lynxstop_report" in given:
            options = replace(options, report=_tag(given["lynxstop_report"]))
        return replace(options, structured=True) if forms and options.watched else options

    def _no_exit(self, asked: Mapping[str, Any] | None) -> str | None:
        """Name the setting of a request that no exit goes together with; a recipe's budget is part of it."""
        if asked is None or self._by_recipe:
            return None
        causes = (why_no_exit(asked, text, self._policy.exit_ids) for text in self._exit_texts)
        return next((cause for cause in causes if cause is not None), None)

    def _compare(self, options: RequestOptions, served: Conditions, level: Level) -> RequestOptions:
        """Do what the operator chose where a request lies outside the certified conditions."""
        if self._certified is None:
            return options
        departures = self._certified.departures(served, level)
        if not departures:
            return options
        return _thinking(options, departures) if self._thinks else replace(options, departures=departures)

    def _options(
        self, risk: float | str, mode: Mode, record: str | None, group: str | None = None
    ) -> RequestOptions:
        if isinstance(risk, str) and self._by_recipe:
            # A full trace is one without scores; the recipe's budget is part of it.
            return RequestOptions(
                watched=True, budget=self._policy.budget, stops=mode is Mode.STOP, record=record
            )
        if isinstance(risk, str):
            return RequestOptions(watched=record is not None, stops=False, record=record)
        return RequestOptions(
            watched=True,
            threshold=self._threshold(risk, group),
            budget=self._policy.budget,
            stops=mode is Mode.STOP,
            record=record,
        )

    def _threshold(self, risk: float, group: str | None) -> float:
        try:
            return self._policy.level(risk, group).threshold
        except ConfigError as error:
            raise ConfigError(error.message, hint=f'Choose one of them, or "{OFF}".') from error

    def _record(self, value: object) -> str | None:
        if isinstance(value, bool | int) and value in (0, 1):
            name = "" if value else None
        elif isinstance(value, str):
            name = {"true": "", "false": None}.get(value.lower(), value)
        else:
            raise ConfigError(f"lynxstop_record is true, false or a name, not {value!r}.")
        if name is not None and not self._records:
            raise ConfigError(
                "This server does not record.",
                hint='Start it with "record": "FOLDER" in the lynxstop settings.',
            )
        return name


def _thinking(options: RequestOptions, departures: tuple[str, ...]) -> RequestOptions:
    """Let a request think to its end."""
    watched = options.record is not None or options.draw is not None
    return replace(
        options, departures=departures, watched=watched, threshold=math.inf, budget=None, stops=False
    )


def _limited(options: RequestOptions, value: object, mode: Mode) -> RequestOptions:
    """Add the client's own thinking budget, which holds whatever its level is.

    An exit by a score before it is the one that there would be without it, so that its certificate holds.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"lynxstop_budget is a number of thinking tokens, 1 or more, not {value!r}.")
    most = value if options.budget is None else min(value, options.budget)
    return replace(options, watched=True, budget=most, stops=mode is Mode.STOP)


def _switch(name: str, value: object) -> bool:
    if isinstance(value, bool | int) and value in (0, 1):
        return bool(value)
    raise ConfigError(f"{name} is true or false, not {value!r}.")


def _tag(value: object) -> str:
    if not isinstance(value, str) or not _TAG.fullmatch(value):
        raise ConfigError("lynxstop_report is set by `lynxstop serve`.")
    return value


def _collecting(options: RequestOptions, given: Mapping[str, object]) -> RequestOptions:
    """Add what a collector asks for."""
    if "lynxstop_statistics" in given:
        count = given["lynxstop_statistics"]
        if isinstance(count, bool) or not isinstance(count, int) or count < 0 or options.record is None:
            raise ConfigError("lynxstop_statistics is a number of tokens of a recorded request.")
        options = replace(options, statistics=count)
    if "lynxstop_draw" in given:
        options = replace(options, draw=_draw(given["lynxstop_draw"]), watched=True)
    return options


def _draw(value: object) -> Draw:
    try:
        if not isinstance(value, Mapping):
            raise TypeError
        found = Draw(str(value["request"]), int(value["start"]), Sampling(**value["sampling"]))
        if len(value) > len(fields(Draw)) or not 0 <= found.start <= found.sampling.max_tokens:
            raise TypeError
    except (TypeError, ValueError, KeyError):
        raise ConfigError("lynxstop_draw is an object of request, start and sampling.") from None
    return found


def _group(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ConfigError(
        f"lynxstop_group is a text, not {value!r}.", hint="Give a value of the certified column."
    )
