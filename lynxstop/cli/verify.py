"""`lynxstop verify`: recompute a certificate from its evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli import _output


def verify(
    certificate: Annotated[Path, typer.Argument(help="Certificate (JSON).")],
    data: Annotated[
        Path | None,
        typer.Argument(help="Evidence, or the score table it was made from; found beside the certificate."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recompute a certificate without the model, and fail on any difference.

    **Examples**

    - `lynxstop verify BUNDLE/certificates/risk-0.05.json`

    - `lynxstop verify certificate.json table.csv --json`
    """
    from lynxstop.calibration.bundles import evidence_name
    from lynxstop.calibration.certificate import Certificate
    from lynxstop.calibration.tables import read_evidence
    from lynxstop.calibration.verify import differences
    from lynxstop.errors import CalibrationError

    read = Certificate.load(certificate)
    evidence = data or certificate.parent / evidence_name(read)
    found = differences(read, read_evidence(evidence, read))
    if json:
        _output.emit(
            {
                "holds": not found,
                "differences": found,
                "promise": read.promise,
                "not_promised": read.not_promised,
                "evidence": str(evidence),
            }
        )
    if found:
        raise CalibrationError(
            f"{certificate} does not hold. {' '.join(found)}",
            hint="Trust neither file: calibrate again, or get both again from where they were made.",
        )
    if not json:
        _output.console.print(f"Recomputed and equal: {read.promise}", markup=False)
        _output.console.print(read.not_promised, style="dim")
