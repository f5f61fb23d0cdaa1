"""The methods, by name."""

from __future__ import annotations

from lynxstop.calibration import anytime, crc, hoeffding_bentkus, holm, ltt, lynx, selective, ucb, weighted
from lynxstop.calibration.case import Method
from lynxstop.errors import ConfigError

METHODS = {
    method.name: method
    for method in (
        Method("ltt", ltt.certify),
        Method("ucb", ucb.certify),
        Method("crc", crc.certify, promise="expectation", fractions=True),
        Method("split", crc.certify_split, promise="expectation"),
        Method("hoeffding_bentkus", hoeffding_bentkus.certify, fractions=True),
        Method("anytime", anytime.certify, fractions=True, grows=True),
        Method("selective", selective.certify, selective=True, needs="train"),
        Method("holm", holm.certify, needs="grid"),
        Method("weighted", weighted.certify, promise="expectation", fractions=True, needs="weights"),
        Method("lynx", lynx.certify, promise="cue"),
    )
}


def method_named(name: str) -> Method:
    """Return a method.

    Raises
    ------
    ConfigError
        When there is no such method; the message lists them.
    """
    if name not in METHODS:
        raise ConfigError(f"There is no method {name!r}.", hint=f"Choose one of: {', '.join(METHODS)}.")
    return METHODS[name]
