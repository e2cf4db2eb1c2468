"""What :func:`check` answers: right, or the one sentence that says what is wrong."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The result of one check; true if the answer is right.

    Args:
        exercise: its name.
        passed: whether the answer is right.
        message: what was checked, or the sentence that says what is wrong.
        mistake: the mistake's short name; None if the answer is right.
        hints: what :func:`~dino_tutorial.exercises.hint` says next, one after the other.
    """

    exercise: str
    passed: bool
    message: str
    mistake: str | None = None
    hints: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.exercise}: {self.message}{self._more()}"

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return f"{'✓' if self.passed else '✗'} **{self.exercise}**: {self.message}{self._more()}"

    def _more(self) -> str:
        return f' `hint("{self.exercise}")` says more.' if self.hints else ""
