"""Files of the repository that the book reads: records, checkpoints, photographs."""

from pathlib import Path

from dino_tutorial.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
# A checkout has them beside the package; a wheel carries them in it (setup.py).
CARRIED = PACKAGE / "carried"


def shipped(name: str) -> Path:
    """Where a file or folder of the repository lies, in a checkout and in an installation.

    The package's own place decides, never the folder that a program runs in, so that code and
    data are of one version.

    Args:
        name: its path in the repository, such as ``"data/checkpoints/dino-scenes-laptop-s0"``,
            ``"data/results"`` or ``"benchmarks/curation.json"``.

    Returns:
        The path; what is there may be read and should not be changed.

    Raises:
        UserError: if nothing of that name comes with the package.
    """
    if not isinstance(name, str):
        raise UserError(f"a path as text was expected, such as data/results, not {name!r:.80}")
    root = PACKAGE.parent if (PACKAGE.parent / "data" / "results").is_dir() else CARRIED
    path = root / name
    if not path.exists():
        raise UserError(
            f"{name} does not come with this package: give a path in its repository, such as "
            "data/results, or install the package again if that is missing too"
        )
    return path
