"""`lynxstop verify`: recompute certificates from their evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli import _output


def verify(
    certificate: Annotated[
        Path, typer.Argument(help="Certificate (JSON), or a bundle, or a folder of certificates.")
    ],
    data: Annotated[
        Path | None,
        typer.Argument(help="Evidence, or the score table it was made from; found beside the certificate."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recompute certificates without the model, and fail on any difference.

    **Examples**

    - `lynxstop verify BUNDLE`

    - `lynxstop verify certificate.json table.csv --json`
    """
    from lynxstop.calibration.certificate import Certificate
    from lynxstop.calibration.tables import read_evidence
    from lynxstop.calibration.verify import differences
    from lynxstop.errors import CalibrationError
    from lynxstop.workflows.calibrate_bundle import FOLDER, evidence_name

    paths = [certificate]
    if certificate.is_dir():
        folder = certificate / FOLDER if (certificate / FOLDER).is_dir() else certificate
        paths = sorted(folder.glob("risk-*.json"))
        if not paths:
            raise CalibrationError(
                f"There is no certificate in {certificate}.", hint="Run `lynxstop calibrate`."
            )
    results = []
    for path in paths:
        read = Certificate.load(path)
        evidence = data or path.parent / evidence_name(read)
        results.append((path, read, differences(read, read_evidence(evidence, read))))
    if json:
        _output.emit(
            {
                "holds": not any(found for _, _, found in results),
                "certificates": [
                    {
                        "certificate": str(path),
                        "holds": not found,
                        "differences": found,
                        "promise": read.promise,
                        "not_promised": read.not_promised,
                    }
                    for path, read, found in results
                ],
            }
        )
    else:
        for path, read, found in results:
            if not found:
                _output.console.print(f"{path.name}: recomputed and equal. {read.promise}", markup=False)
        _output.console.print(results[0][1].not_promised, style="dim")
    for path, _, found in results:
        if found:
            raise CalibrationError(
                f"{path} does not hold. {' '.join(found)}",
                hint="Trust neither file: calibrate again, or get both again from where they were made.",
            )
