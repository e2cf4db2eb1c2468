"""The one exception that means: the input is wrong, here is what to do about it."""


class UserError(ValueError):
    """A mistake in what the caller asked for, told in one sentence: what, where, what to do.

    The command line prints the sentence and exits with code 2; in Python it is a ``ValueError``.
    """
