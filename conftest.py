"""How nbval runs the notebooks of the book, and what of them it compares."""

import sys

import nbval.kernel
from forked_kernels import forked

if sys.platform == "linux":  # elsewhere a process that has imported PyTorch may not be forked
    nbval.kernel.start_new_kernel = forked(nbval.kernel.start_new_kernel)


def pytest_collectstart(collector):
    """Compare printed text only.

    Pictures, markup and widgets differ between machines by a rounding error in one pixel or by
    a random id. What a notebook claims, it prints or asserts.
    """
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html", "image/svg+xml", "application/javascript")
