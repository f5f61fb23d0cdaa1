"""Everything lynxstop raises on purpose.

::

    LynxstopError
    ├── ConfigError            an option or a configuration value is wrong
    ├── MissingExtraError      an optional dependency is not installed
    ├── StepError              a step was called before the one it needs
    ├── TokenizerError         a cue, a delimiter or an exit text cannot be expressed in these tokens
    ├── ModelError             the model cannot be watched (no thinking block, no such layer)
    ├── DataError              problems, recorded traces or a score table are unusable
    ├── BundleError            a bundle is missing, damaged or of an unknown version
    │   └── FingerprintError   a bundle or a certificate belongs to another model
    ├── CalibrationError       a certificate cannot be computed or does not verify
    ├── RequestError           a client's request is refused by the proxy
    └── UpstreamError          the server behind the proxy cannot be reached, died or sent nonsense
"""

from __future__ import annotations


class LynxstopError(Exception):
    """Base of all errors; `hint` says what to do next.

    Parameters
    ----------
    message : str
        What is wrong, in one sentence.
    hint : str, optional
        What the user can do about it.
    """

    exit_code = 2
    """Exit status of the command line when this error ends it."""

    status_code = 400
    """HTTP status when this error reaches a client."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigError(LynxstopError):
    """An option or a configuration value is wrong."""


class MissingExtraError(LynxstopError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs the package {package!r}, which is not installed.",
            hint=f"Install it with: pip install 'lynxstop[{extra}]'",
        )


class StepError(LynxstopError):
    """A step was called before the one it needs."""


class TokenizerError(LynxstopError):
    """A cue, a delimiter or an exit text cannot be expressed in the tokenizer's tokens."""


class ModelError(LynxstopError):
    """The model cannot be watched: no thinking block, or no such layer."""


class DataError(LynxstopError):
    """Problems, recorded traces or a score table are unusable."""


class BundleError(LynxstopError):
    """A bundle is missing, damaged or of an unknown version."""


class FingerprintError(BundleError):
    """A bundle or a certificate belongs to another model, tokenizer or template."""


class CalibrationError(LynxstopError):
    """A certificate cannot be computed, or does not verify."""


class RequestError(LynxstopError):
    """A client's request is refused by the proxy.

    Parameters
    ----------
    message : str
        What is wrong, without the request's content.
    status : int
        HTTP status.
    kind : str
        The error's "type" in the answer.
    code : str, optional
        The error's "code" in the answer.
    hint : str, optional
        What the client can do about it.
    retry_after : int, optional
        Seconds after which the client should try again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        hint: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status_code = status
        self.kind = kind
        self.code = code
        self.retry_after = retry_after


class UpstreamError(LynxstopError):
    """The server behind the proxy cannot be reached, died or sent nonsense."""

    status_code = 502
    kind = "upstream_error"

    def __init__(
        self, message: str, *, code: str = "upstream_failed", status: int = 502, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status_code = status
