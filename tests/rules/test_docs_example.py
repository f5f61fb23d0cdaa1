"""The example in docs/extending.md works as written, as an installed package would bring it."""

import re
import sys
from pathlib import Path

import pytest

from lynxstop.core.statistics import Statistics
from lynxstop.errors import ConfigError
from lynxstop.rules import table as rules
from lynxstop.rules.served import serve
from lynxstop.signals import table as signals

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install the example as a distribution with entry points."""
    code, toml = re.findall(r"```(?:python|toml)\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)[:2]
    (tmp_path / "my_package.py").write_text(code + "\n\ncalm = Calm()\n")
    groups = toml.replace("project.entry-points.", "").replace('"', "").split("  #")[0]
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(groups)
    monkeypatch.syspath_prepend(tmp_path)
    caches = (signals._others, rules.all_rules)
    for cache in caches:
        cache.cache_clear()
    yield info
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop("my_package", None)


def test_the_example_is_found_and_decides(installed):
    scorer = serve(rules.rule_named("calm")).start()
    for entropy in (0.1, 2.0, 0.2, 0.3):
        scorer.step(7, Statistics(entropy, 0.0, 0.0, 0.0))

    assert scorer.score(scorer.snapshot(0.0)) == -0.25


def test_another_package_cannot_take_a_name_of_ours(installed):
    (installed / "entry_points.txt").write_text("[lynxstop.rules]\nlynx = my_package:calm\n")

    with pytest.raises(ConfigError, match="lynx"):
        rules.all_rules()


def test_every_signal_and_rule_is_in_the_documents():
    text = DOCUMENT.with_name("signals.md").read_text().replace("\\|", "|")
    for name in (*signals.SIGNALS, *rules.RULES, "first-finish"):
        assert re.search(rf"`{re.escape(name)}[`:]", text), name
