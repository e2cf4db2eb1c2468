"""The one exception that means: the input is wrong, here is what to do about it."""

import unicodedata
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake in what the caller asked for, told in one sentence: what, where, what to do.

    The command line prints the sentence and exits with code 2; in Python it is a ``ValueError``.
    """


def printable(text: str) -> str:
    """Text that any screen, page and figure can show, from a name that a user or a disk gave.

    Bytes of a file name that are no UTF-8, and characters that steer a terminal or turn the
    direction of writing, come out as Python spells them, such as ``\\xe9`` and ``\\x1b``.
    """
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else _spelled(c) for c in text
    )


def _spelled(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape has kept
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, the one that it was raised from, and so on."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__
