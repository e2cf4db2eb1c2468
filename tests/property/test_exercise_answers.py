"""Whatever an answer returns, its verdict is a sentence."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.exercises.checking import judge
from dino_tutorial.exercises.registry import EXERCISES

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64])
TENSORS = st.builds(lambda shape, dtype: torch.ones(shape, dtype=dtype), SHAPES, DTYPES)
SINGLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | TENSORS
VALUES = st.recursive(SINGLE, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner))


@settings(max_examples=150, deadline=None)
@given(exercise=st.sampled_from(sorted(EXERCISES)), value=VALUES)
def test_any_value_gets_a_verdict(exercise, value):
    verdict = judge(EXERCISES[exercise], lambda *_: value)
    assert not verdict.passed
    assert verdict.message.endswith(".") and "\n" not in str(verdict)
