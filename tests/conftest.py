"""What tests of every room may ask for."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes and types of arguments are not checked during this test.

    For tests that hand over wrong ones to read the package's own sentence, which is all that users
    see, and for what cannot be traced through the checks.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
