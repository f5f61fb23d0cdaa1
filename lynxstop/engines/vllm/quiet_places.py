"""States of the watch as dictionaries: which tokens decide nothing there, and where they lead.

Most tokens of a text complete no cue. For these a session only counts, so that a look-up is all they need,
and the session catches up by `lynxstop.core.session.Session.pass_over` when something else comes.
"""

from __future__ import annotations

from collections.abc import Set

from lynxstop.core.watch import Watch, WatchState

_MOST = 1 << 16
"""Tokens that are remembered over all places: a text visits few of them."""


class Place(dict[int, "Place | None"]):
    """A state of the watch: the tokens seen there, each with the place it leads to; None if not quiet."""

    __slots__ = ("state",)

    def __init__(self, state: WatchState) -> None:
        super().__init__()
        self.state = state


class QuietPlaces:
    """Places of one watch, shared by all requests.

    Parameters
    ----------
    watch : Watch
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._places: dict[WatchState, Place] = {}
        self._excluded: set[int] = set()
        self._known = 0

    def exclude(self, tokens: Set[int]) -> None:
        """Never take these tokens as quiet: they end the texts of some requests."""
        if tokens <= self._excluded:
            return
        self._excluded |= tokens
        for place in self._places.values():
            for token in tokens:
                place.pop(token, None)

    def at(self, state: WatchState) -> Place:
        """Return the place of a state."""
        place = self._places.get(state)
        if place is None:
            place = self._places[state] = Place(state)
        return place

    def learn(self, place: Place, token: int) -> None:
        """Remember whether a token is quiet there.

        Quiet is a thinking token that neither completes nor confirms a cue, and any token with no thinking
        block open before or after it.
        """
        if token in place or token in self._excluded:
            return
        seen = self._watch.read(place.state, token)
        if self._watch.inside(place.state):
            quiet = seen.thinking and not (seen.confirmed or seen.here or seen.pending)
        else:
            quiet = not seen.thinking
        if self._known >= _MOST:
            for one in self._places.values():
                one.clear()
            self._known = 0
        self._known += 1
        place[token] = self.at(seen.state) if quiet else None
