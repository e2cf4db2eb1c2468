"""iBOT, KoLeo, Gram and distillation losses against their equations, written out the slow way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.losses import GramLoss, KoLeoLoss, distillation_loss, ibot_loss, iBOTPatchLoss


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax_by_hand(logits):
    powers = [math.exp(value) for value in logits]
    return [power / sum(powers) for power in powers]


def ibot_by_images(student, teacher, masks, center, student_temp, teacher_temp):
    """Equation 2 of iBOT, image by image, patch by patch, from logits (B, N, K) of all patches."""
    loss = 0.0
    for i in range(masks.shape[0]):
        hidden = [j for j in range(masks.shape[1]) if masks[i, j]]
        for j in hidden:
            target = softmax_by_hand(((teacher[i, j] - center) / teacher_temp).tolist())
            prediction = softmax_by_hand((student[i, j] / student_temp).tolist())
            entropy = -sum(p * math.log(q) for p, q in zip(target, prediction, strict=True))
            loss += entropy / len(hidden) / masks.shape[0]
    return loss


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5),
    n_patches=st.integers(1, 6),
    out_dim=st.integers(2, 9),
    seed=st.integers(0, 1000),
)
def test_ibot_loss_image_by_image(batch, n_patches, out_dim, seed):
    g = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(batch, n_patches, out_dim, generator=g) for _ in range(2))
    masks = torch.rand(batch, n_patches, generator=g) < 0.5  # some images may have none
    loss = iBOTPatchLoss(out_dim, student_temp=0.3)
    loss.center.copy_(torch.randn(1, out_dim, generator=g))
    weights = (1 / masks.sum(dim=1, keepdim=True)).expand(masks.shape)[masks]
    value = loss.eval()(student[masks], teacher[masks], 0.2, weights, batch)
    expected = ibot_by_images(student, teacher, masks, loss.center[0], 0.3, 0.2)
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_ibot_gradient_is_the_difference_of_probabilities():
    student, teacher = randn(4, 7).requires_grad_(), randn(4, 7, seed=1).requires_grad_()
    weights = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0])
    iBOTPatchLoss(7)(student, teacher, 0.04, weights, 5).backward()
    difference = (student / 0.1).softmax(-1) - (teacher / 0.04).softmax(-1)
    torch.testing.assert_close(student.grad, difference * weights[:, None] / 5 / 0.1)
    assert teacher.grad is None


def test_ibot_center_moves_after_the_loss_and_only_in_training():
    student, teacher, weights = randn(3, 5), randn(3, 5, seed=1), torch.ones(3)
    loss = iBOTPatchLoss(5, center_momentum=0.9)
    first = loss(student, teacher, 0.04, weights, 3)
    assert first == iBOTPatchLoss(5)(student, teacher, 0.04, weights, 3)
    torch.testing.assert_close(loss.center[0], 0.1 * teacher.mean(dim=0))
    center = loss.center.clone()
    loss(student[:0], teacher[:0], 0.04, weights[:0], 3)
    loss.eval()(student, teacher, 0.04, weights, 3)
    assert torch.equal(loss.center, center)


def test_nothing_hidden_costs_nothing_and_still_reaches_the_student():
    student = torch.zeros(0, 5, requires_grad=True)
    value = iBOTPatchLoss(5)(student, torch.zeros(0, 5), 0.04, torch.zeros(0), 4)
    value.backward()
    assert value == 0 and student.grad.shape == (0, 5)


@pytest.mark.parametrize("targets, weights", [((3, 4), (3,)), ((3, 5), (4,))])
@pytest.mark.usefixtures("unchecked")
def test_ibot_names_shapes_that_do_not_fit(targets, weights):
    with pytest.raises(ValueError, match="targets wants a tensor|weights wants a tensor"):
        ibot_loss(torch.zeros(3, 5), torch.zeros(targets), torch.zeros(weights), 2, 0.1)


def koleo_by_pairs(features):
    """−mean ln of sqrt(d² + ε²), d the smallest distance on the sphere, over all pairs, float64."""
    unit = [x / x.norm() for x in features.double()]
    nearest = [
        min((x - y).norm() for j, y in enumerate(unit) if j != i) for i, x in enumerate(unit)
    ]
    return -sum((distance**2 + 1e-8).sqrt().log() for distance in nearest) / len(unit)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(2, 8), dim=st.integers(2, 9), seed=st.integers(0, 1000))
def test_koleo_and_its_gradient_pair_by_pair(batch, dim, seed):
    features = (3 * randn(batch, dim, seed=seed)).requires_grad_()
    expected = koleo_by_pairs(features)
    value = KoLeoLoss()(features)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)
    (gradient,) = torch.autograd.grad(value, features)
    (by_pairs,) = torch.autograd.grad(expected, features)
    atol = 1e-3 * by_pairs.abs().max().item()
    torch.testing.assert_close(gradient, by_pairs, rtol=1e-2, atol=atol)


def test_koleo_with_duplicates_is_finite_and_pushes_nothing_apart_at_random():
    features = randn(4, 6)
    features[1] = 2 * features[0]  # the same direction
    features.requires_grad_()
    value = KoLeoLoss()(features)
    value.backward()
    assert value.item() > -0.5 * math.log(1e-4) - 1 and value.isfinite()
    assert features.grad.isfinite().all() and features.grad[:2].norm() < 1e3
    all_equal = torch.ones(5, 3, requires_grad=True)
    KoLeoLoss()(all_equal).backward()
    assert all_equal.grad.abs().max() == 0


def test_koleo_of_a_single_image_is_zero():
    features = randn(1, 6).requires_grad_()
    value = KoLeoLoss()(features)
    value.backward()
    assert value == 0 and (features.grad == 0).all()


def test_koleo_spreads_features_out():
    features = (0.1 * randn(12, 4) + torch.tensor([1.0, 0, 0, 0])).requires_grad_()
    before = torch.pdist(features.detach() / features.detach().norm(dim=1, keepdim=True)).min()
    optimizer = torch.optim.SGD([features], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        KoLeoLoss()(features).backward()
        optimizer.step()
    after = torch.pdist(features.detach() / features.detach().norm(dim=1, keepdim=True)).min()
    assert before < 0.1 and after > 0.5


def test_autocast_does_not_round_the_losses():
    features, weights = randn(8, 16), torch.full((8,), 0.5)
    losses = [
        lambda: KoLeoLoss()(features),
        lambda: GramLoss()(features.view(2, 4, 16), randn(2, 4, 16, seed=1)),
        lambda: iBOTPatchLoss(16)(features, randn(8, 16, seed=1), 0.04, weights, 4),
        lambda: distillation_loss(features, randn(8, 16, seed=1)),
    ]
    for loss in losses:
        with torch.autocast("cpu", torch.bfloat16):
            low = loss()
        assert low.dtype == torch.float32 and low == loss()


@pytest.mark.usefixtures("unchecked")
def test_koleo_wants_a_batch_of_features():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        KoLeoLoss()(torch.zeros(2, 3, 4))


def test_gram_loss_entry_by_entry():
    student, anchor = randn(2, 3, 5), randn(2, 3, 4, seed=1)
    total = 0.0
    for image in range(2):
        for i in range(3):
            for j in range(3):
                cosines = [
                    torch.cosine_similarity(x[image, i], x[image, j], dim=0).item()
                    for x in (student, anchor)
                ]
                total += (cosines[0] - cosines[1]) ** 2
    assert GramLoss()(student, anchor).item() == pytest.approx(total / 18, rel=1e-4)


def test_gram_loss_is_blind_to_rotation_and_length_but_not_to_order():
    patches = randn(2, 6, 5)
    rotation = torch.linalg.qr(randn(5, 5, seed=2)).Q
    turned = 3 * patches @ rotation
    assert GramLoss()(turned, patches).item() == pytest.approx(0, abs=1e-10)
    assert GramLoss()(patches.roll(1, dims=1), patches) > 0.01


@pytest.mark.usefixtures("unchecked")
def test_gram_loss_leaves_the_anchor_alone():
    student, anchor = randn(2, 3, 5).requires_grad_(), randn(2, 3, 5, seed=1).requires_grad_()
    GramLoss()(student, anchor).backward()
    assert anchor.grad is None and student.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="N is 4, but 3 in student_patches"):
        GramLoss()(student, torch.zeros(2, 4, 5))


def test_distillation_by_hand():
    student, teacher, temperature = randn(3, 4), randn(3, 4, seed=1), 2.5
    expected = 0.0
    for s, t in zip(student / temperature, teacher / temperature, strict=True):
        q, p = softmax_by_hand(s.tolist()), softmax_by_hand(t.tolist())
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 3
    value = distillation_loss(student, teacher, temperature)
    assert value.item() == pytest.approx(temperature**2 * expected, rel=1e-4)
    assert distillation_loss(student, student).item() == pytest.approx(0, abs=1e-6)


def test_distillation_gradient_keeps_its_size_when_the_temperature_grows():
    teacher, sizes = randn(8, 5, seed=1), []
    for temperature in (20.0, 40.0):
        student = randn(8, 5).requires_grad_()
        distillation_loss(student, teacher, temperature).backward()
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.usefixtures("unchecked")
def test_distillation_stops_the_teachers_gradient_and_names_shapes():
    student, teacher = (randn(2, 3, seed=s).requires_grad_() for s in range(2))
    distillation_loss(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="K is 4, but 3 in student_logits"):
        distillation_loss(student, torch.zeros(2, 4))
