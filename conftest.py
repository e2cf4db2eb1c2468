"""What nbval compares when it runs the notebooks of the book."""


def pytest_collectstart(collector):
    """Compare printed text only.

    Pictures, markup and widgets differ between machines by a rounding error in one pixel or by
    a random id. What a notebook claims, it prints or asserts.
    """
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html", "image/svg+xml", "application/javascript")
