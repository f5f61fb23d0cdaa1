"""Arms are drawn by a keyed hash of the id: their shares hold, and nobody can choose."""

import pytest

from lynxstop.errors import ConfigError
from lynxstop.monitor.arms import Arm, ArmShares

IDS = [f"request-{number}" for number in range(20_000)]


def test_the_shares_are_the_configured_ones() -> None:
    shares = ArmShares(b"key", audit=0.02, holdout=0.05)
    drawn = [shares.arm(name) for name in IDS]

    # five standard deviations
    assert abs(drawn.count(Arm.AUDIT) / len(IDS) - 0.02) < 0.005
    assert abs(drawn.count(Arm.HOLDOUT) / len(IDS) - 0.05) < 0.008


def test_another_key_draws_other_requests() -> None:
    one, other = (ArmShares(key, audit=0.5) for key in (b"a", b"b"))

    same = sum(one.arm(name) == other.arm(name) for name in IDS) / len(IDS)

    assert 0.45 < same < 0.55


def test_a_canary_stops_no_more_than_its_share_and_grows_without_reshuffling() -> None:
    small, large = ArmShares(b"k", audit=0.1, canary=0.1), ArmShares(b"k", audit=0.1, canary=0.3)
    stopped = [{name for name in IDS if shares.arm(name) is not Arm.OUTSIDE} for shares in (small, large)]

    assert abs(len(stopped[0]) / len(IDS) - 0.1) < 0.012
    assert stopped[0] < stopped[1]


@pytest.mark.parametrize("wrong", [{"audit": -0.1}, {"audit": 0.6, "holdout": 0.6}, {"canary": 1.1}])
def test_impossible_shares_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ArmShares(b"k", **wrong)
    with pytest.raises(ConfigError, match="key"):
        ArmShares(b"")
