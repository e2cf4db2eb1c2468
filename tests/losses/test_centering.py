"""The center: what it subtracts, and when and by what it moves."""

import torch

from dino_tutorial.losses.centering import Center


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_probabilities_are_centred_then_sharpened():
    center, logits = Center(5), randn(2, 3, 5)
    center.center.copy_(randn(1, 5, seed=1))
    powers = torch.exp((logits.double() - center.center) / 0.2)
    expected = powers / powers.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(center.probabilities(logits, 0.2).double(), expected)
    half = center.probabilities(logits.bfloat16().requires_grad_(), 0.2)
    assert half.dtype == torch.float32 and not half.requires_grad


def test_the_center_moves_once_by_the_mean_of_all_micro_batches():
    center, parts = Center(4, center_momentum=0.6), [randn(2, 3, 4), randn(2, 5, 4, seed=1)]
    for part in parts:
        center.note(part)
        assert not center.center.any()  # not before the step is over
    center.update()
    mean = torch.cat(parts, dim=1).mean(dim=(0, 1))
    torch.testing.assert_close(center.center[0], 0.4 * mean)
    center.update()  # nothing noted since
    torch.testing.assert_close(center.center[0], 0.4 * mean)
    center.note(parts[0])
    center.update()
    second = 0.6 * 0.4 * mean + 0.4 * parts[0].mean(dim=(0, 1))
    torch.testing.assert_close(center.center[0], second)


def test_in_evaluation_nothing_is_noted():
    center = Center(4).eval()
    center.note(randn(3, 4))
    center.train().update()
    assert not center.center.any()


def test_no_logits_leave_the_center_where_it_is():
    center = Center(4)
    center.center.copy_(randn(1, 4))
    before = center.center.clone()
    center.note(torch.zeros(0, 4))
    center.update()
    assert torch.equal(center.center, before)


def test_processes_count_by_how_many_logits_each_has(monkeypatch):
    mine, theirs = randn(3, 7), randn(11, 7, seed=1)
    other = torch.cat([theirs.sum(dim=0), torch.tensor([11.0])])
    monkeypatch.setattr(
        "dino_tutorial.losses.centering.sum_over_processes", lambda tensor: tensor + other
    )
    for noted, expected in ((mine, torch.cat([mine, theirs])), (mine[:0], theirs)):
        center = Center(7)
        center.note(noted)
        center.update()
        torch.testing.assert_close(center.center[0], 0.1 * expected.mean(dim=0))
