"""Write the table of the proxy's keys into docs/proxy/operations.md; `--check` only compares."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.sources import keys, show

TARGET = Path(__file__).resolve().parents[1] / "docs" / "proxy" / "operations.md"
MARKED = re.compile(r"(?<=<!-- config -->\n).*?(?=<!-- /config -->)", flags=re.DOTALL)


def render() -> str:
    """Return the table as Markdown."""
    lines = ["| key | meaning | default |", "|---|---|---|"]
    for key, field in keys():
        value = show(ProxyConfig(), key)
        default = "" if value is None or value in ([], {}) else f"`{str(value).lower()}`"
        lines.append(f"| `{key}` | {field.description} | {default} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table, or fail when it is out of date."""
    text = TARGET.read_text()
    wanted = MARKED.sub(lambda _: render(), text)
    if "--check" in sys.argv:
        if text != wanted or "<!-- config -->" not in text:
            sys.exit(f"{TARGET} is out of date: run python scripts/config_table.py")
        return
    TARGET.write_text(wanted)


if __name__ == "__main__":
    main()
