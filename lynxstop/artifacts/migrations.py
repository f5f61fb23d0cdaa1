"""Files of older schema versions, brought up to date when they are read: one pure function per step.

A chain of k steps means that version k + 1 is written; version n is read by applying the steps from the n-th
on. What was once released is never edited here: a further change is a further step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lynxstop.errors import LynxstopError

Content = dict[str, Any]
Step = Callable[[Content], Content]


def policy_1_to_2(content: Content) -> Content:
    """Cut exits after the cue; keep no digests of further files."""
    return content | {"cut": "behind", "files": {}}


def meta_1_to_2(content: Content) -> Content:
    """Cut exits after the cue."""
    return content | {"cut": "behind"}


ENGINE_IDS = {"TransformersEngine": "transformers", "VllmEngine": "vllm", "OpenAIEngine": "openai"}
"""Engines once went by their class names."""

_CUTS = {"behind": "after"}


def _ids(content: Content) -> Content:
    """Name the engine by its id, and the side of the cue where exits cut by the word used today."""
    engine, cut = content.get("engine"), content.get("cut")
    return (
        content
        | ({"engine": ENGINE_IDS.get(engine, engine)} if isinstance(engine, str) else {})
        | ({"cut": _CUTS.get(cut, cut)} if isinstance(cut, str) else {})
    )


def certificate_1_to_2(content: Content) -> Content:
    """Name the engine by its id in what the certificate rests on."""
    rests_on = content.get("fingerprint")
    return content | {"fingerprint": _ids(rests_on)} if isinstance(rests_on, dict) else content


def certificate_2_to_3(content: Content) -> Content:
    """Promise about requests, as certificates did before there was a choice."""
    settings = content.get("settings")
    if not isinstance(settings, dict):
        return content
    return content | {"settings": {"unit": "request", "tried": 1} | settings}


def policy_3_to_4(content: Content) -> Content:
    """Leave out no decision points."""
    return content | {"stride": 1, "max_points": None}


def policy_4_to_5(content: Content) -> Content:
    """Compare scores as they are."""
    return content | {"tilt": 0.0}


def policy_5_to_6(content: Content) -> Content:
    """Compare answers as mathematics; serve at one sampling."""
    return content | {"grader": "math"}


def policy_6_to_7(content: Content) -> Content:
    """Certify every level at the policy's own sampling."""
    levels = content.get("levels")
    if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels):
        return content
    return content | {"levels": [{"sampling": None} | level for level in levels]}


def certificate_3_to_4(content: Content) -> Content:
    """Tell problems apart by their ids alone; have the grading checked by nothing."""
    return content | {"repeated": None, "grading": None}


def certificate_4_to_5(content: Content) -> Content:
    """Certify at one sampling; show no subgroups."""
    settings = content.get("settings")
    if not isinstance(settings, dict):
        return content
    return content | {"settings": {"by_sampling": False} | settings, "subgroups": []}


def meta_3_to_4(content: Content) -> Content:
    """Force exits at all decision points."""
    return content | {"min_tokens": 0, "cooldown": 0, "stride": 1, "max_points": None}


POLICY: tuple[Step, ...] = (policy_1_to_2, _ids, policy_3_to_4, policy_4_to_5, policy_5_to_6, policy_6_to_7)
META: tuple[Step, ...] = (meta_1_to_2, _ids, meta_3_to_4)
CERTIFICATE: tuple[Step, ...] = (
    certificate_1_to_2,
    certificate_2_to_3,
    certificate_3_to_4,
    certificate_4_to_5,
)


def upgrade(content: Content, chain: Sequence[Step], what: str, refusal: type[LynxstopError]) -> Content:
    """Bring the content of a file to the version that is written today.

    Parameters
    ----------
    content : dict
        With its `schema_version`.
    chain : sequence of Step
        `POLICY`, `META` or `CERTIFICATE`.
    what : str
        The file, for the message.
    refusal : type of LynxstopError
        What to raise.

    Raises
    ------
    LynxstopError
        When the version is newer than this lynxstop, or never existed.
    """
    version, newest = content.get("schema_version"), len(chain) + 1
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise refusal(
            f"{what} has schema version {version!r}, which never existed.",
            hint="Get it again from its source.",
        )
    if version > newest:
        raise refusal(
            f"{what} has schema version {version}; this lynxstop reads up to {newest}.",
            hint="It was written by a newer lynxstop: upgrade this one.",
        )
    for number, step in enumerate(chain[version - 1 :], start=version + 1):
        content = step(content) | {"schema_version": number}
    return content
