"""Mutual nearest patches against a loop over pairs."""

import pytest
import torch

from dino_tutorial.evaluation import mutual_matches


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_matches_are_those_of_a_loop_over_pairs():
    first, second = randn(3, 7, 5), 2 * randn(3, 9, 5, seed=1) + 0.3
    found = mutual_matches(first, second)
    mutual = 0
    for b in range(3):
        cosine = torch.nn.functional.cosine_similarity(first[b][:, None], second[b][None], dim=-1)
        for i in range(7):
            there = max(range(9), key=lambda j, row=cosine[i]: row[j].item())
            back = max(range(7), key=lambda k, column=cosine[:, there]: column[k].item())
            assert found.partner[b, i] == (there if back == i else -1)
            assert found.similarity[b, i] == pytest.approx(cosine[i, there].item(), abs=1e-5)
            mutual += back == i
    assert 0 < mutual < 21


def test_a_shuffled_image_is_put_together_again():
    patches, order = randn(2, 16, 8), torch.randperm(16, generator=torch.Generator().manual_seed(1))
    partner, similarity = mutual_matches(patches, 3 * patches[:, order])
    assert torch.equal(order[partner], torch.arange(16).expand(2, 16))
    torch.testing.assert_close(similarity, torch.ones(2, 16))


@pytest.mark.usefixtures("unchecked")
def test_shapes_are_checked():
    with pytest.raises(ValueError, match="D is 4, but 5 in first"):
        mutual_matches(randn(2, 7, 5), randn(2, 7, 4))
