"""`lynxstop verify`: recompute certificates from their evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json


def verify(
    certificate: Annotated[
        Path, typer.Argument(help="Certificate (JSON), or a bundle, or a folder of certificates.")
    ],
    data: Annotated[
        Path | None,
        typer.Argument(help="Evidence, or the score table it was made from; found beside the certificate."),
    ] = None,
    json: Json = False,
) -> None:
    """Recompute certificates without the model, and fail on any difference.

    **Examples**

    - `lynxstop verify BUNDLE`

    - `lynxstop verify certificate.json table.csv --json`
    """
    from lynxstop.errors import CalibrationError
    from lynxstop.workflows.verify_bundle import verify_path

    found = verify_path(certificate, data)
    if json:
        _output.emit(
            {
                "holds": found.holds,
                "differences": list(found.differences),
                "certificates": [
                    {
                        "certificate": str(one.path),
                        "holds": not one.differences,
                        "differences": list(one.differences),
                        "promise": one.certificate.promise,
                        "not_promised": one.certificate.not_promised,
                    }
                    for one in found.certificates
                ],
            }
        )
    else:
        for one in found.certificates:
            if not one.differences:
                promise = one.certificate.promise
                _output.console.print(f"{one.path.name}: recomputed and equal. {promise}", markup=False)
        _output.console.print(found.certificates[0].certificate.not_promised, style="dim")
    hint = "Trust neither file: calibrate again, or get both again from where they were made."
    for path, differing in [
        *((one.path, one.differences) for one in found.certificates),
        (certificate, found.differences),
    ]:
        if differing:
            raise CalibrationError(f"{path} does not hold. {' '.join(differing)}", hint=hint)
