"""Every claim of the threat model names a test, and the test exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
CLAIMS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| attempt")]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[2:40])
def test_a_claim_names_a_test_that_exists(claim: str) -> None:
    named = NAMED.findall(claim)
    assert named
    for file, test in named:
        assert re.search(rf"^(?:async )?def {test}\(", (ROOT / file).read_text(), flags=re.MULTILINE), test
