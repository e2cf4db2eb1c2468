"""Wrong answers that people write, by hand; each with the names that it may rightly get."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def _boxes(n, scale, size, generator, **how):
    """Boxes, and the ways to draw them a little wrong."""

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    tries = how.get("tries", 20)
    area = (scale[0] + (scale[1] - scale[0]) * uniform(n, tries)) * size**2
    if how.get("gauss"):
        middle, spread = sum(scale) / 2, (scale[1] - scale[0]) / 8
        normal = torch.randn(n, tries, generator=generator).clamp(-4, 4)
        area = (middle + spread * normal) * size**2
    reach = math.log(4 / 3) * how.get("reach", 1)
    ratio = (2 * reach * uniform(n, tries) - reach).exp()
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    good = ((width <= size) & (height <= size)).float().argmax(dim=1)
    rows = torch.arange(n)
    width, height = width[rows, good].clamp(max=size), height[rows, good].clamp(max=size)
    down, right = uniform(n), uniform(n)
    if how.get("one"):
        right = down
    top, left = ((d * (size - s + 1)).floor() for d, s in ((down, height), (right, width)))
    if how.get("rounded"):
        top, left = (down * (size - height)).round(), (right * (size - width)).round()
    if how.get("left") == "zero":
        left = torch.zeros(n)
    if how.get("left") == "centred":
        left = ((size - width) / 2).floor()
    return torch.stack([top, left, height, width], dim=1).long()


def _wrong_boxes(**how):
    return lambda n, scale, size, generator: _boxes(n, scale, size, generator, **how)


def pca_without_the_rule(patches):
    x = patches.flatten(0, 1)
    x = x - x.mean(dim=0)
    return (x @ torch.linalg.svd(x, full_matrices=False).Vh[0] > 0).reshape(patches.shape[:2])


def naive_info_nce(query, key, negatives, temperature):
    q, k, n = (F.normalize(x, dim=-1) for x in (query, key, negatives))
    own, rest = ((q * k).sum(-1) / temperature).exp(), (q @ n.T / temperature).exp()
    return -(own / (own + rest.sum(-1))).log().mean()


def iou_of_classes(which):
    def mean_iou(predicted, truth, n_classes):
        scores = []
        for c in {"truth": truth, "predicted": predicted}[which].unique():
            both = ((predicted == c) & (truth == c)).sum()
            scores.append(both / ((predicted == c) | (truth == c)).sum())
        return torch.stack(scores).mean()

    return mean_iou


def clip_until_none(parameters, max_norm):
    for parameter in parameters:
        if parameter.grad is None:
            return
        norm = parameter.grad.norm()
        if norm > max_norm:
            parameter.grad.mul_(max_norm / norm)


def clip_dividing_by_zero(parameters, max_norm):
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_((max_norm / parameter.grad.norm().clamp_min(0)).nan_to_num(0, 0, 0))


def norm_until_empty(parts):
    total = torch.zeros(())
    for part in parts:
        if len(part) == 0:
            break
        total = total + part.square().sum()
    return total.sqrt()


def decay_by_names(model):
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [n.endswith("bias") or "norm" in n for n, _ in trained]
    return (
        [p for (_, p), w in zip(trained, plain, strict=True) if not w],
        [p for (_, p), w in zip(trained, plain, strict=True) if w],
    )


def timm(drop, cast=None):
    def from_timm_names(state):
        ours = {}
        for name, value in state.items():
            if drop(name):
                continue
            if name == "pos_embed":
                value = F.pad(value, (0, 0, 1, 0))
            ours[name.replace("reg_token", "register_tokens")] = value.to(cast or value.dtype)
        return ours

    return from_timm_names


def both_register_names(state):
    return timm(lambda name: name.startswith("head."))(state) | {"reg_token": state["reg_token"]}


def timm_in_place(state):
    state["cls_token"] += state["pos_embed"][:, :1]
    theirs = {n.replace("register_tokens", "reg_token"): v for n, v in state.items()}
    theirs.pop("mask_token", None)
    return theirs | {"pos_embed": state["pos_embed"][:, 1:]}


def information_with_nan(probabilities):
    def entropy(p):
        return -(p * p.log()).sum(-1)

    return entropy(probabilities.mean(0)) - entropy(probabilities).mean()


def lost_with_one_more(patches, k):
    x = patches - patches.mean(dim=0)
    similarity = x @ x.T
    order = (similarity > 0).sum(dim=1).argsort(stable=True)[: k + 1]
    return similarity[order[similarity[order[0], order] > 0]].sum(dim=0) > 0


def ten_classes(labels, per_class, seed):
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == kind][:per_class] for kind in range(10)])


def within_the_class(labels, per_class, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = [int((labels == kind).sum()) for kind in labels.unique()]
    return torch.cat([torch.randperm(n, generator=generator)[:per_class] for n in counts])


def three_channels(images, patch_size):
    b, _, h, w = images.shape
    p = patch_size
    x = images[:, :3].reshape(b, 3, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, -1, 3 * p * p)


def classes_that_are_there(train_x, train_y, test_x, k, temperature):
    cosine = F.normalize(test_x, dim=-1) @ F.normalize(train_x, dim=-1).T
    near, index = cosine.topk(k, dim=1)
    kinds, own = train_y.unique(return_inverse=True)
    votes = torch.zeros(len(test_x), len(kinds))
    return votes.scatter_add(1, own[index], (near / temperature).exp())


def zero_by_zero(base, final, total_steps, warmup_steps):
    n = total_steps - warmup_steps
    warm = base * np.arange(warmup_steps) / np.float64(warmup_steps - 1)
    rest = final + 0.5 * (base - final) * (1 + np.cos(np.pi * np.arange(n) / n))
    return np.concatenate([warm, rest])


def floor_at_least_zero(sizes, errors, exponent):
    x, y = sizes.double() ** -exponent, errors.double()
    factor = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return (y.mean() - factor * x.mean()).clamp(min=0), factor


def overflowing(teacher_logits, center, teacher_temp):
    z = ((teacher_logits - center) / teacher_temp).exp()
    return z / z.sum(dim=-1, keepdim=True)


def norm_of(order):
    def high_norm(x, factor):
        norms = x.norm(p=order, dim=-1)
        return norms > factor * norms.median(dim=1, keepdim=True).values

    return high_norm


def layer_norm(x, factor):
    norms = F.layer_norm(x, x.shape[-1:]).norm(dim=-1)
    return norms > factor * norms.median(dim=1, keepdim=True).values


def koleo_with_itself(epsilon):
    def koleo(features):
        x = F.normalize(features, dim=-1)
        squares = (x[:, None] - x).square().sum(-1) + epsilon**2
        return -squares.min(dim=1).values.sqrt().log().mean()

    return koleo


def pooled_frames(predicted, true):
    both, either = (predicted & true).sum().float(), (predicted | true).sum().float()
    return (both / either if either else torch.ones(())).expand(len(predicted))


def gain(change):
    def recovered(low, high, finish):
        return change((finish - low).mean() / (high - low).mean())

    return recovered


# exercise, answer, the names that it may get; none: any, as long as it is rejected
WRONG = [
    ("draw_boxes", _wrong_boxes(tries=1), {"not-drawn-again"}),
    ("draw_boxes", _wrong_boxes(reach=2), {"ratio-range"}),
    ("draw_boxes", _wrong_boxes(reach=0.5), {"ratio-range"}),
    ("draw_boxes", _wrong_boxes(left="zero"), {"not-moved"}),
    ("draw_boxes", _wrong_boxes(left="centred"), {"not-moved"}),
    ("draw_boxes", _wrong_boxes(one=True), {"one-draw-for-both"}),
    ("draw_boxes", _wrong_boxes(gauss=True), {"area-not-uniform"}),
    ("draw_boxes", _wrong_boxes(rounded=True), {"ends-unlike", "last-place-missing"}),
    ("pca_foreground", pca_without_the_rule, set()),
    ("info_nce", naive_info_nce, {"not-finite"}),
    ("recovered", gain(torch.abs), set()),
    ("recovered", gain(lambda share: share.clamp(0, 1)), set()),
    ("high_norm", norm_of(1), set()),
    ("high_norm", norm_of(math.inf), set()),
    ("high_norm", layer_norm, {"nothing-found"}),
    ("mean_iou", iou_of_classes("truth"), {"truth-only"}),
    ("mean_iou", iou_of_classes("predicted"), {"predicted-only"}),
    ("clip_gradients", clip_until_none, {"case"}),
    ("norm_of_parts", norm_until_empty, {"case"}),
    ("decay_groups", decay_by_names, {"by-the-name-norm"}),
    ("from_timm_names", timm(lambda name: name == "head.weight"), {"whether"}),
    ("from_timm_names", timm(lambda name: "head" in name), {"shape"}),
    ("from_timm_names", timm(lambda name: name.startswith("head."), torch.float16), {"dtype"}),
    ("from_timm_names", both_register_names, {"whether"}),
    ("to_timm_names", timm_in_place, {"changes-input"}),
    ("information", information_with_nan, {"not-finite"}),
    ("lost_mask", lost_with_one_more, set()),
    ("labelled", ten_classes, {"number", "not-by-class", "total"}),
    ("labelled", within_the_class, {"within-class"}),
    ("to_patches", three_channels, {"error"}),
    ("knn_classify", classes_that_are_there, {"shape"}),
    ("cosine_schedule", zero_by_zero, {"not-finite"}),
    ("floor_and_factor", floor_at_least_zero, set()),
    ("teacher_probabilities", overflowing, {"not-finite"}),
    ("koleo", koleo_with_itself(1e-4), {"own-neighbour"}),
    ("koleo", koleo_with_itself(1e-6), {"own-neighbour"}),
    ("region_similarity", pooled_frames, {"pooled", "all-alike"}),
]
