"""Writes the shipped problem sets and the manifest: ``python -m lynxstop_research.reasoner.sets``."""

import hashlib
import json
from pathlib import Path

from lynxstop.demo.problems import Split, draw

DATA = Path(__file__).resolve().parents[2] / "data"
SEED = 1
# Calibration problems of their own: nobody had seen their curves when the levels and the tilt were chosen.
CALIBRATION_SEED = 3
SIZES: dict[Split, int] = {"train": 4000, "calibration": 20000, "test": 1500, "shift": 600}

_COMMANDS = {
    "problems": "python -m lynxstop_research.reasoner.sets",
    "reasoner": "python -m lynxstop_research.reasoner.train",
    "silent": "python -m lynxstop_research.reasoner.silent --out data/silent",
}
_CARD = "python -m lynxstop_research.reasoner.card"
_CARD_COMMANDS = {
    "reasoner/README.md": f"{_CARD} --measure",
    "reasoner/measured.json": f"{_CARD} --measure",
    "reasoner/curves.svg": f"{_CARD} --measure",
    "silent/README.md": _CARD,
    "silent/measured.json": "python -m lynxstop_research.reasoner.measure --model data/silent --problems 240 "
    "--out data/silent/measured.json",
}


def write_sets(data: Path = DATA) -> None:
    """Write one JSONL file for each split, one problem on each line."""
    folder = data / "problems"
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in SIZES.items():
        seed = CALIBRATION_SEED if split == "calibration" else SEED
        lines = (json.dumps(p.record()) + "\n" for p in draw(size, seed, split=split))
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_manifest(data: Path = DATA) -> None:
    """Write the digest of every data file of this part, and the command that rebuilds it."""
    files = {
        (name := path.relative_to(data).as_posix()): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
            "rebuild": _CARD_COMMANDS.get(name, command),
        }
        for part, command in _COMMANDS.items()
        for path in sorted((data / part).glob("*"))
        if path.is_file()
    }
    text = json.dumps({"files": files}, indent=2) + "\n"
    (data / "manifest.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the sets, then the manifest of all that is there."""
    write_sets()
    write_manifest()


if __name__ == "__main__":
    main()
