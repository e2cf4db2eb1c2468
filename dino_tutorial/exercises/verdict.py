"""What :func:`check` answers: right, or the one sentence that says what is wrong."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The result of one check; true if the answer is right.

    Args:
        exercise: its name.
        passed: whether the answer is right.
        message: what was checked, or the sentence that names the mistake.
        mistake: the mistake's short name; None if the answer is right.
    """

    exercise: str
    passed: bool
    message: str
    mistake: str | None = None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.exercise}: {self.message}"

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return f"{'✓' if self.passed else '✗'} **{self.exercise}**: {self.message}"
