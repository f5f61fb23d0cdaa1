"""Errors say what to do."""

import pytest

from lynxstop.errors import FingerprintError, LynxstopError, MissingExtraError
from lynxstop.extras import need


def test_the_hint_follows_the_message() -> None:
    assert str(LynxstopError("Broken.", hint="Mend it.")) == "Broken. Mend it."


def test_a_missing_extra_names_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'lynxstop\[proxy\]'"):
        need("no_such_module_anywhere", "proxy")


def test_the_tree_drawn_in_the_module_is_the_real_one() -> None:
    import lynxstop.errors as module

    classes = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, LynxstopError)]

    assert all(kind.__name__ in (module.__doc__ or "") for kind in classes)
    assert FingerprintError.__mro__[1].__name__ == "BundleError"
