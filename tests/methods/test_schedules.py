"""Schedules against the reference's convention, recomputed in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dino_tutorial.training import cosine_schedule, linear_warmup


@given(
    base=st.floats(-5, 5),
    final=st.floats(-5, 5),
    warmup=st.integers(0, 20),
    freeze=st.integers(0, 5),
    rest=st.integers(1, 50),
)
def test_cosine_schedule_entry_by_entry(base, final, warmup, freeze, rest):
    table = cosine_schedule(base, final, freeze + warmup + rest, warmup, 0.5, freeze)
    assert table.shape == (freeze + warmup + rest,) and table.dtype == torch.float64
    expected = [0.0] * freeze
    expected += [0.5 + (base - 0.5) * i / max(warmup - 1, 1) for i in range(warmup)]
    expected += [
        final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / rest)) for i in range(rest)
    ]
    if warmup == 1:
        expected[freeze] = 0.5  # a warm-up of one step is its start
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64))


def test_base_occurs_twice_and_final_is_never_reached():
    table = cosine_schedule(1.0, 0.0, 100, warmup_steps=10)
    assert (table == 1.0).sum() == 2 and table[9] == table[10] == 1.0
    assert table[-1] > 0


def test_momentum_follows_the_byol_formula():
    table = cosine_schedule(0.996, 1.0, 1000)
    k = 300
    assert table[k].item() == pytest.approx(
        1 - (1 - 0.996) * (math.cos(math.pi * k / 1000) + 1) / 2, abs=1e-12
    )


def test_too_long_a_warmup_is_refused():
    with pytest.raises(ValueError, match="do not fit into 10"):
        cosine_schedule(1.0, 0.0, 10, warmup_steps=8, freeze_steps=3)


def test_teacher_temperature_warms_up_then_stays():
    table = linear_warmup(0.04, 0.07, 100, 31)
    assert table[0] == 0.04 and table[15].item() == pytest.approx(0.055)
    assert table[30] == 0.07 and (table[30:] == 0.07).all() and len(table) == 100
