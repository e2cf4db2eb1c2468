"""The linear probe against an exact solver of the same convex problem, and its honesty."""

import pytest
import torch
import torch.nn.functional as F

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import accuracy, linear, linear_probe


def blobs(n=600, dim=8, n_classes=3, noise=3.0, seed=0):
    """Noisy classes: unequal scales and an offset, so that standardisation matters."""
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(n_classes, dim, generator=torch.Generator().manual_seed(99))
    y = torch.randint(n_classes, (n,), generator=generator)
    x = centers[y] + noise * torch.randn(n, dim, generator=generator)
    return x * torch.logspace(-1, 1, dim) + 3, y


def exact_solution(x, y, n_classes, decay):
    """Minimise cross-entropy + decay/2 |W|² by LBFGS in float64."""
    x = x.double()
    weight = torch.zeros(x.shape[1], n_classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach().float(), (bias - bias.mean()).detach().float()


def test_each_head_reaches_the_optimum_of_its_own_decay():
    x, y = blobs(200)
    x = (x - x.mean(0)) / x.std(0)
    decays = torch.tensor([0.01, 0.1, 1.0])
    rates = torch.tensor([0.3, 0.2, 0.1])
    weight, bias = linear.train_heads(x, y, 3, rates, decays, steps=600, batch_size=200)
    for head, decay in enumerate(decays.tolist()):
        exact_weight, exact_bias = exact_solution(x, y, 3, decay)
        torch.testing.assert_close(weight[head], exact_weight, atol=2e-3, rtol=1e-2)
        centred = bias[head] - bias[head].mean()  # a shift of all biases changes nothing
        torch.testing.assert_close(centred, exact_bias, atol=2e-3, rtol=1e-2)


def test_heads_trained_together_equal_torch_sgd_one_by_one():
    x, y = blobs(100)
    x = (x - x.mean(0)) / x.std(0)
    rates, decays = torch.tensor([0.5, 0.01]), torch.tensor([0.0, 0.1])
    steps = 40
    weights, biases = linear.train_heads(x, y, 3, rates, decays, steps=steps, batch_size=100)
    for head in range(2):
        layer = torch.nn.Linear(8, 3)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        groups = [
            {"params": [layer.weight], "weight_decay": float(decays[head])},
            {"params": [layer.bias], "weight_decay": 0.0},
        ]
        sgd = torch.optim.SGD(groups, lr=float(rates[head]), momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
        for _ in range(steps):
            sgd.zero_grad()
            F.cross_entropy(layer(x), y).backward()
            sgd.step()
            schedule.step()
        torch.testing.assert_close(weights[head], layer.weight.detach().T, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(biases[head], layer.bias.detach(), atol=1e-5, rtol=1e-4)


def test_probe_reaches_the_best_accuracy_of_the_exact_solution():
    train_x, train_y = blobs(600)
    test_x, test_y = blobs(600, seed=1)
    probe = linear_probe(train_x, train_y, test_x, test_y, steps=400)
    mean, std = train_x.mean(0), train_x.std(0)
    weight, bias = exact_solution((train_x - mean) / std, train_y, 3, 1e-3)
    exact = accuracy((test_x - mean) / std @ weight + bias, test_y)
    assert 0.6 < exact < 0.99  # neither hopeless nor trivial
    assert probe.test_accuracy == pytest.approx(exact, abs=0.02)


def test_probe_can_be_applied_to_raw_features():
    train_x, train_y = blobs()
    test_x, test_y = blobs(200, seed=1)
    probe = linear_probe(train_x, train_y, test_x, test_y, steps=100)
    assert probe(test_x).shape == (200, 3)
    assert accuracy(probe(test_x), test_y) == probe.test_accuracy


def test_the_test_split_chooses_nothing():
    train_x, train_y = blobs()
    test_x, test_y = blobs(200, seed=1)
    honest = linear_probe(train_x, train_y, test_x, test_y, steps=60)
    fooled = linear_probe(train_x, train_y, test_x.flip(0), (test_y + 1) % 3, steps=60)
    assert honest.chosen == fooled.chosen
    assert torch.equal(honest.weight, fooled.weight)
    assert torch.equal(honest.validation_accuracy, fooled.validation_accuracy)


def test_the_best_head_on_validation_is_chosen():
    train_x, train_y = blobs()
    probe = linear_probe(
        train_x,
        train_y,
        train_x,
        train_y,
        learning_rates=(1e-7, 0.1),
        weight_decays=(0.0, 50.0),
        steps=60,
    )
    assert probe.validation_accuracy.shape == (4,)
    assert probe.learning_rates[probe.chosen] == pytest.approx(0.1)
    assert probe.weight_decays[probe.chosen] == 0
    assert probe.validation_accuracy[probe.chosen] == probe.validation_accuracy.max()


def test_validation_rows_do_not_train(monkeypatch):
    train_x, train_y = blobs(100)
    seen = []
    real = linear.train_heads

    def spy(x, y, *arguments, **options):
        seen.append(len(x))
        return real(x, y, *arguments, **options)

    monkeypatch.setattr(linear, "train_heads", spy)
    linear_probe(train_x, train_y, train_x, train_y, steps=5, validation_fraction=0.3)
    assert seen == [70, 100]


def test_the_same_seed_gives_the_same_probe():
    train_x, train_y = blobs()
    first, second, other = (
        linear_probe(train_x, train_y, train_x, train_y, steps=30, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


def test_constant_dimensions_do_no_harm():
    train_x, train_y = blobs()
    train_x = torch.cat([train_x, torch.full((len(train_x), 2), 7.0)], dim=1)
    probe = linear_probe(train_x, train_y, train_x, train_y, steps=100)
    assert probe.weight.isfinite().all()
    assert probe.test_accuracy > 0.6


def test_works_on_features_made_in_inference_mode():
    with torch.inference_mode():
        train_x = blobs()[0] * 1.0
    train_y = blobs()[1]
    assert linear_probe(train_x, train_y, train_x, train_y, steps=20).test_accuracy > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_y": torch.full((50,), -1)}, "no label"),
        ({"train_y": torch.zeros(49, dtype=torch.long)}, "N is 49, but 50 in train_x"),
        ({"test_x": torch.zeros(50, 9)}, "D is 9, but 8 in train_x"),
        ({"test_x": torch.full((50, 8), torch.nan)}, "NaN"),
        ({"validation_fraction": 0.0}, "validation part"),
        ({"validation_fraction": 1.0}, "validation part"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named(change, message):
    x, y = blobs(50)
    arguments = {"train_x": x, "train_y": y, "test_x": x, "test_y": y} | change
    with pytest.raises(UserError, match=message):
        linear_probe(**arguments)


def test_accuracies_in_parts_are_the_accuracies(monkeypatch):
    x, y = blobs(300)
    heads = torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 3)
    heads[0][4] = torch.inf  # diverged
    expected = linear.accuracies(*heads, x, y)
    monkeypatch.setattr(linear, "CHUNK_LOGITS", 15 * 7)
    assert torch.equal(linear.accuracies(*heads, x, y), expected)
    assert expected[4] == 0 and (expected[:4] > 0).all()
