"""Right answers in many styles; `name__style` answers the exercise `name`.

Loops, einsum, numpy, float64, in place on copies, functional: whatever a reader may write. The
mutations of `mutations.py` start from these.
"""

import copy
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# why-labels-run-out


def rotation_batch__turn_by_turn(images):
    pictures = torch.cat([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return pictures, torch.arange(4).repeat_interleave(len(images))


def rotation_batch__numpy(images):
    turned = [np.rot90(image, k, (1, 2)).copy() for image in images.numpy() for k in range(4)]
    return np.stack(turned), [k for _ in images for k in range(4)]


def rotation_batch__transpose_and_flip(images):
    quarter = images.transpose(2, 3).flip(2)
    half = images.flip(2).flip(3)
    three = images.transpose(2, 3).flip(3)
    answers = torch.tensor([0, 1, 2, 3])
    return torch.stack([images, quarter, half, three], dim=1).flatten(0, 1), answers.repeat(
        len(images)
    )


def shuffle_tiles__loop(tiles, permutations, answers):
    shuffled = torch.empty_like(tiles)
    for b, answer in enumerate(answers):
        for t in range(len(tiles)):
            shuffled[t, b] = tiles[permutations[answer, t], b]
    return shuffled


def shuffle_tiles__gather(tiles, permutations, answers):
    order = permutations[answers].T[:, :, None, None, None]
    return tiles.gather(0, order.expand_as(tiles))


def shuffle_tiles__one_puzzle_at_a_time(tiles, permutations, answers):
    return torch.stack([tiles[permutations[a], b] for b, a in enumerate(answers)], dim=1)


def labelled__numpy(labels, per_class, seed):
    generator = np.random.default_rng(seed)
    found = [np.flatnonzero(labels.numpy() == kind) for kind in np.unique(labels.numpy())]
    return np.concatenate([generator.permutation(one)[:per_class] for one in found])


def labelled__keys(labels, per_class, seed):
    keys = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = []
    for kind in labels.unique():
        where = (labels == kind).nonzero().flatten()
        chosen.append(where[keys[where].argsort()[:per_class]])
    return torch.cat(chosen)


def labelled__walk(labels, per_class, seed):
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    taken, chosen = {}, []
    for index in order.tolist():
        kind = int(labels[index])
        if taken.get(kind, 0) < per_class:
            taken[kind] = taken.get(kind, 0) + 1
            chosen.append(index)
    return chosen


# images-as-tokens


def to_patches__reshape(images, patch_size):
    b, c, h, w = images.shape
    p = patch_size
    x = images.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // p), c * p * p)


def to_patches__loop(images, patch_size):
    p, patches = patch_size, []
    for i in range(0, images.shape[2], p):
        for j in range(0, images.shape[3], p):
            patches.append(images[:, :, i : i + p, j : j + p].flatten(1))
    return torch.stack(patches, dim=1)


def to_patches__unfold(images, patch_size):
    x = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def to_patches__numpy(images, patch_size):
    b, c, h, w = images.shape
    x = images.numpy().reshape(b, c, h // patch_size, patch_size, w // patch_size, patch_size)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(b, -1, c * patch_size**2)


def attention__per_head(x, qkv_weight, qkv_bias, proj_weight, proj_bias, heads):
    q, k, v = (x @ qkv_weight.T + qkv_bias).chunk(3, dim=-1)
    d = x.shape[-1] // heads
    out = []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)
        out.append(scores.softmax(dim=-1) @ v[..., part])
    return torch.cat(out, dim=-1) @ proj_weight.T + proj_bias


def attention__sdpa(x, qkv_weight, qkv_bias, proj_weight, proj_bias, heads):
    b, t, d = x.shape
    qkv = F.linear(x, qkv_weight, qkv_bias).reshape(b, t, 3, heads, d // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v)
    return F.linear(out.transpose(1, 2).reshape(b, t, d), proj_weight, proj_bias)


def attention__einsum(x, qkv_weight, qkv_bias, proj_weight, proj_bias, heads):
    b, t, width = x.shape
    d = width // heads
    qkv = (torch.einsum("btd,ed->bte", x, qkv_weight) + qkv_bias).view(b, t, 3, heads, d)
    scores = torch.einsum("bqhd,bkhd->bhqk", qkv[:, :, 0], qkv[:, :, 1]) * d**-0.5
    weights = torch.softmax(scores, dim=-1)
    out = torch.einsum("bhqk,bkhd->bqhd", weights, qkv[:, :, 2]).reshape(b, t, width)
    return torch.einsum("btd,ed->bte", out, proj_weight) + proj_bias, weights


def resize_positions__scale(pos_embed, n, height, width):
    token, grid = pos_embed[:, :1], pos_embed[:, 1:]
    grid = grid.reshape(1, n, n, -1).permute(0, 3, 1, 2)
    scale = ((height + 0.1) / n, (width + 0.1) / n)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    return torch.cat([token, grid.flatten(2).transpose(1, 2)], dim=1)


def resize_positions__one_number_at_a_time(pos_embed, n, height, width):
    result = pos_embed.new_empty(1, 1 + height * width, pos_embed.shape[-1])
    result[:, 0] = pos_embed[:, 0]
    for d in range(pos_embed.shape[-1]):
        grid = pos_embed[0, 1:, d].reshape(1, 1, n, n)
        scale = ((height + 0.1) / n, (width + 0.1) / n)
        resized = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        result[0, 1:, d] = resized.flatten()
    return result


# contrast-and-cluster


def info_nce__cross_entropy(query, key, negatives, temperature):
    q, k, others = (F.normalize(x, dim=-1) for x in (query, key, negatives))
    own = (q * k).sum(dim=-1, keepdim=True)
    logits = torch.cat([own, q @ others.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def info_nce__logsumexp(query, key, negatives, temperature):
    own = F.cosine_similarity(query, key, dim=-1) / temperature
    rest = F.cosine_similarity(query[:, None], negatives[None], dim=-1) / temperature
    everything = torch.cat([rest, own[:, None]], dim=1)
    return (everything.logsumexp(dim=1) - own).mean()


def info_nce__loop(query, key, negatives, temperature):
    total = 0.0
    for q, k in zip(query, key, strict=True):
        candidates = torch.cat([k[None], negatives])
        scores = candidates @ q / (candidates.norm(dim=1) * q.norm()) / temperature
        total = total - scores.log_softmax(dim=0)[0]
    return total / len(query)


def info_nce__float64(query, key, negatives, temperature):
    q, k, others = (
        x.double() / x.double().norm(dim=1, keepdim=True) for x in (query, key, negatives)
    )
    logits = torch.cat([torch.einsum("bd,bd->b", q, k)[:, None], q @ others.T], 1) / temperature
    return -logits.log_softmax(dim=1)[:, 0].mean()


def nt_xent__masked(view_1, view_2, temperature):
    z = F.normalize(torch.cat([view_1, view_2]), dim=1)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    n = len(view_1)
    targets = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(logits, targets)


def nt_xent__loop(view_1, view_2, temperature):
    z, n = torch.cat([view_1, view_2]), len(view_1)
    z = z / z.norm(dim=1, keepdim=True)
    losses = []
    for i in range(2 * n):
        others = torch.stack([z[i] @ z[j] for j in range(2 * n) if j != i]) / temperature
        own = z[i] @ z[(i + n) % (2 * n)] / temperature
        losses.append(others.logsumexp(dim=0) - own)
    return torch.stack(losses).mean()


def nt_xent__interleaved(view_1, view_2, temperature):
    z = F.normalize(torch.stack([view_1, view_2], dim=1).flatten(0, 1), dim=-1)
    index = torch.arange(len(z))
    logits = torch.einsum("id,jd->ij", z, z) / temperature
    logits = logits - 1e9 * torch.eye(len(z))
    return -logits.log_softmax(dim=1)[index, index ^ 1].mean()


def swapped__two_lines(logits, assignments, temperature):
    log_p = (logits / temperature).log_softmax(dim=-1)
    first = -(assignments[1] * log_p[0]).sum(dim=-1).mean()
    second = -(assignments[0] * log_p[1]).sum(dim=-1).mean()
    return (first + second) / 2


def swapped__flip(logits, assignments, temperature):
    log_p = F.log_softmax(logits / temperature, dim=2)
    return -torch.einsum("vbk,vbk->vb", assignments.flip(0), log_p).mean()


def swapped__cross_entropy(logits, assignments, temperature):
    scores = logits.flatten(0, 1) / temperature
    return F.cross_entropy(scores, assignments.roll(1, 0).flatten(0, 1))


# byol


def byol_loss__distance(prediction, target):
    p, z = (x / x.norm(dim=1, keepdim=True) for x in (prediction, target.detach()))
    return (p - z).square().sum(dim=1).mean()


def byol_loss__cosine(prediction, target):
    return (2 - 2 * F.cosine_similarity(prediction, target.detach(), dim=-1)).mean()


def byol_loss__no_grad(prediction, target):
    with torch.no_grad():
        z = F.normalize(target, dim=-1)
    p = F.normalize(prediction, dim=-1)
    return 2 - 2 * torch.einsum("bd,bd->b", p, z).mean()


def byol_loss__float64_loop(prediction, target):
    total = 0.0
    for p, z in zip(prediction.double(), target.detach().double(), strict=True):
        total = total + 2 - 2 * (p @ z) / (p.norm() * z.norm())
    return total / len(prediction)


def both_directions__cosine(student, predictor, teacher, view_1, view_2):
    def one(x, y):
        with torch.no_grad():
            target = teacher(y)
        return (2 - 2 * F.cosine_similarity(predictor(student(x)), target, dim=-1)).mean()

    return one(view_1, view_2) + one(view_2, view_1)


def both_directions__one_batch(student, predictor, teacher, view_1, view_2):
    p = F.normalize(predictor(student(torch.cat([view_1, view_2]))), dim=-1)
    z = F.normalize(teacher(torch.cat([view_2, view_1])), dim=-1).detach()
    return 2 * (p - z).pow(2).sum(dim=-1).mean()


def both_directions__stacked(student, predictor, teacher, view_1, view_2):
    views = torch.stack([view_1, view_2])
    p, z = predictor(student(views)), teacher(views).flip(0).detach()
    cosine = (p * z).sum(-1) / (p.norm(dim=-1) * z.norm(dim=-1))
    return (2 - 2 * cosine).mean(dim=1).sum()


def trained_parameters__list(student, predictor, teacher):
    return [*student.parameters(), *predictor.parameters()]


def trained_parameters__groups(student, predictor, teacher):
    return [{"params": list(network.parameters())} for network in (predictor, student)]


def trained_parameters__chain(student, predictor, teacher):
    return itertools.chain(student.parameters(), predictor.parameters())


# self-distillation


def soft_cross_entropy__log_softmax(student_logits, teacher_logits, temperature):
    p = (teacher_logits / temperature).softmax(dim=-1)
    log_q = (student_logits / temperature).log_softmax(dim=-1)
    return -(temperature**2) * (p * log_q).sum(dim=-1).mean()


def soft_cross_entropy__cross_entropy(student_logits, teacher_logits, temperature):
    p = F.softmax(teacher_logits / temperature, dim=1)
    return F.cross_entropy(student_logits / temperature, p) * temperature**2


def soft_cross_entropy__kl_and_entropy(student_logits, teacher_logits, temperature):
    log_p = (teacher_logits.double() / temperature).log_softmax(1)
    log_q = (student_logits.double() / temperature).log_softmax(1)
    divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    entropy = -(log_p.exp() * log_p).sum() / len(log_p)
    return temperature * temperature * (divergence + entropy)


def dino_loss__einsum(student_logits, teacher_logits, center, student_temp, teacher_temp):
    p = ((teacher_logits - center) / teacher_temp).softmax(dim=-1).detach()
    log_q = (student_logits / student_temp).log_softmax(dim=-1)
    pairs = -torch.einsum("gbk,vbk->gv", p, log_q) / p.shape[1]
    return (pairs.sum() - pairs.diagonal().sum()) / (2 * len(student_logits) - 2)


def dino_loss__loop(student_logits, teacher_logits, center, student_temp, teacher_temp):
    total, pairs = 0.0, 0
    for g in range(2):
        p = ((teacher_logits[g].detach() - center) / teacher_temp).softmax(dim=-1)
        for v in range(len(student_logits)):
            if v == g:
                continue
            log_q = (student_logits[v] / student_temp).log_softmax(dim=-1)
            total = total - (p * log_q).sum(dim=-1).mean()
            pairs += 1
    return total / pairs


def dino_loss__chunks(student_logits, teacher_logits, center, student_temp, teacher_temp):
    with torch.no_grad():
        targets = F.softmax((teacher_logits - center) / teacher_temp, dim=-1)
    losses = []
    for g, q in enumerate(targets):
        for v, s in enumerate(student_logits):
            if v != g:
                losses.append(F.cross_entropy(s / student_temp, q))
    return torch.stack(losses).mean()


def dino_loss__mask(student_logits, teacher_logits, center, student_temp, teacher_temp):
    p = ((teacher_logits.detach() - center) / teacher_temp).softmax(-1)[:, None]
    log_q = F.log_softmax(student_logits / student_temp, -1)[None]
    each = -(p * log_q).sum(-1).mean(-1)
    keep = 1 - torch.eye(2, len(student_logits))
    return (each * keep).sum() / keep.sum()


# multi-crop


def crop_pairs__set(n_global, n_local):
    return {(g, v) for g in range(n_global) for v in range(n_global + n_local) if g != v}


def crop_pairs__product(n_global, n_local):
    views = itertools.product(range(n_global), range(n_global + n_local))
    return [pair for pair in views if pair[0] != pair[1]]


def crop_pairs__tensor(n_global, n_local):
    keep = torch.ones(n_global, n_global + n_local).bool().fill_diagonal_(False)
    return keep.nonzero()


def split_loss__loop(student_logits, targets, student_temp):
    log_q = (student_logits / student_temp).log_softmax(dim=-1)
    local, among, n = 0.0, 0.0, 2 * len(log_q) - 2
    for g in range(2):
        for v in range(len(log_q)):
            cost = -(targets[g] * log_q[v]).sum(dim=-1).mean()
            if v >= 2:
                local = local + cost / n
            elif v != g:
                among = among + cost / n
    return local, among


def split_loss__stacked(student_logits, targets, student_temp):
    log_q = F.log_softmax(student_logits / student_temp, dim=-1)
    cost = -torch.einsum("gbk,vbk->gv", targets, log_q) / targets.shape[1]
    n = 2 * len(log_q) - 2
    among = cost[0, 1] + cost[1, 0]
    return torch.stack([cost[:, 2:].sum(), among]) / n


def split_loss__list_of_numbers(student_logits, targets, student_temp):
    log_q = (student_logits.double() / student_temp).log_softmax(dim=-1)
    cost = -(targets.double()[:, None] * log_q[None]).sum(-1).mean(-1)
    pairs = 2 * (len(log_q) - 1)
    return [(cost[:, 2:].sum() / pairs).item(), ((cost[0, 1] + cost[1, 0]) / pairs).item()]


def draw_boxes__loop_over_tries(n, scale, size, generator):
    height, width = torch.zeros(n), torch.zeros(n)
    left_to_do = torch.ones(n, dtype=torch.bool)
    while left_to_do.any():
        m = int(left_to_do.sum())
        area = torch.empty(m).uniform_(*scale, generator=generator) * size**2
        ratio = (
            torch.empty(m).uniform_(-math.log(4 / 3), math.log(4 / 3), generator=generator).exp()
        )
        height[left_to_do] = (area / ratio).sqrt().round()
        width[left_to_do] = (area * ratio).sqrt().round()
        left_to_do = (height > size) | (width > size)
    top = (torch.rand(n, generator=generator) * (size - height + 1)).floor()
    left = (torch.rand(n, generator=generator) * (size - width + 1)).floor()
    return torch.stack([top, left, height, width], dim=1).long()


def draw_boxes__floats(n, scale, size, generator):
    def uniform(low, high):
        return low + (high - low) * torch.rand(n, 20, generator=generator)

    area, log_ratio = uniform(*scale) * size * size, uniform(-math.log(4 / 3), math.log(4 / 3))
    width = (area * log_ratio.exp()).sqrt().round()
    height = (area * (-log_ratio).exp()).sqrt().round()
    good = ((width <= size) & (height <= size)).float().argmax(dim=1)
    rows = torch.arange(n)
    width, height = width[rows, good], height[rows, good]
    place = torch.rand(2, n, generator=generator)
    top, left = (place[0] * (size - height + 1)).floor(), (place[1] * (size - width + 1)).floor()
    return torch.stack([top, left, height, width], dim=-1)


# centering-sharpening


def teacher_probabilities__softmax(teacher_logits, center, teacher_temp):
    return ((teacher_logits - center) / teacher_temp).softmax(dim=-1)


def teacher_probabilities__by_hand(teacher_logits, center, teacher_temp):
    z = (teacher_logits - center) / teacher_temp
    z = (z - z.amax(dim=-1, keepdim=True)).exp()
    return z / z.sum(dim=-1, keepdim=True)


def teacher_probabilities__numpy(teacher_logits, center, teacher_temp):
    z = (teacher_logits.double().numpy() - center.double().numpy()) / teacher_temp
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def center_update__mean(center, teacher_logits, momentum):
    return momentum * center + (1 - momentum) * teacher_logits.mean(dim=(0, 1))


def center_update__lerp(center, teacher_logits, momentum):
    batch = teacher_logits.flatten(0, 1).mean(dim=0, keepdim=True)
    return center.lerp(batch, 1 - momentum)


def center_update__in_place(center, teacher_logits, momentum):
    batch = teacher_logits.sum(dim=0).sum(dim=0) / (
        teacher_logits.shape[0] * teacher_logits.shape[1]
    )
    return center.clone().mul_(momentum).add_(batch, alpha=1 - momentum)[0]


def sinkhorn__matrix(logits, temp, n_iters):
    q = ((logits - logits.max()) / temp).exp()
    for _ in range(n_iters):
        q = q / q.sum(dim=0, keepdim=True)
        q = q / q.sum(dim=1, keepdim=True)
    return q


def sinkhorn__logarithms(logits, temp, n_iters):
    log_q = logits / temp
    for _ in range(n_iters):
        log_q = log_q - log_q.logsumexp(dim=0, keepdim=True)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp()


def sinkhorn__numpy(logits, temp, n_iters):
    q = np.exp((logits.double().numpy() - logits.max().item()) / temp)
    for _ in range(n_iters):
        q /= q.sum(axis=0)
        q /= q.sum(axis=1)[:, None]
    return q


def sinkhorn__prototypes_first(logits, temp, n_iters):
    q = ((logits.double() - logits.max()) / temp).exp().T
    for _ in range(n_iters):
        q = q / q.sum(dim=1, keepdim=True)
        q = q / q.sum(dim=0, keepdim=True)
    return q.T


def entropy__entr(probabilities):
    return torch.special.entr(probabilities).sum(dim=-1)


def entropy__xlogy(probabilities):
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def entropy__clamp(probabilities):
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(-1)


def entropy__numpy(probabilities):
    p = probabilities.double().numpy()
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=-1)


# momentum-teacher


def make_teacher__deepcopy(student):
    return copy.deepcopy(student).requires_grad_(False)


def make_teacher__loop(student):
    teacher = copy.deepcopy(student)
    for parameter in teacher.parameters():
        parameter.requires_grad = False
    return teacher


def make_teacher__eval(student):
    teacher = copy.deepcopy(student).eval()
    teacher.requires_grad_(False)
    return teacher


@torch.no_grad()
def ema_update__state_dict(teacher, student, momentum):
    theirs = student.state_dict()
    for name, ours in teacher.state_dict().items():
        if ours.is_floating_point():
            ours.copy_(momentum * ours + (1 - momentum) * theirs[name])
        else:
            ours.copy_(theirs[name])


def ema_update__lerp(teacher, student, momentum):
    with torch.no_grad():
        for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
            ours.lerp_(theirs, 1 - momentum)
        for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
            if ours.is_floating_point():
                ours.lerp_(theirs, 1 - momentum)


def ema_update__data(teacher, student, momentum):
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True))
    pairs += list(zip(teacher.buffers(), student.buffers(), strict=True))
    for ours, theirs in pairs:
        if ours.dtype.is_floating_point:
            ours.data.mul_(momentum).add_(theirs.data, alpha=1 - momentum)
    return teacher


def half_life__log(momentum):
    return math.log(0.5) / math.log(momentum)


def half_life__tensor(momentum):
    return torch.tensor(0.5).log() / torch.tensor(momentum).log()


def half_life__log2(momentum):
    return -1 / math.log2(momentum)


def half_life__numpy(momentum):
    return np.log(2) / -np.log(momentum)


def debiased_ema__loop(values, momentum):
    average, out = 0.0, []
    for t, value in enumerate(values, start=1):
        average = momentum * average + (1 - momentum) * value
        out.append(average / (1 - momentum**t))
    return torch.stack(out)


def debiased_ema__weights(values, momentum):
    n = len(values)
    age = torch.arange(n)[:, None] - torch.arange(n)
    weights = torch.where(age >= 0, momentum ** age.clamp(min=0).double(), 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)) @ values.double()


def debiased_ema__numpy(values, momentum):
    total, norm, out = 0.0, 0.0, []
    for value in values.numpy():
        total = momentum * total + value
        norm = momentum * norm + 1
        out.append(total / norm)
    return np.array(out)


def momentum_at__math(step, total, start):
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total)) / 2


def momentum_at__numpy(step, total, start):
    return 1.0 + 0.5 * (start - 1.0) * (1 + np.cos(np.pi * step / total))


def momentum_at__sine(step, total, start):
    return start + (1 - start) * math.sin(math.pi * step / (2 * total)) ** 2


def momentum_at__tensor(step, total, start):
    phase = torch.tensor(step / total, dtype=torch.float64) * math.pi
    return 1 - (1 - start) * (1 + torch.cos(phase)) / 2


# training-dino


def count_pairs__formula(n_global, n_local):
    return n_global * (n_global + n_local - 1), n_global * n_local


def count_pairs__listed(n_global, n_local):
    views = range(n_global + n_local)
    pairs = [(g, v) for g in range(n_global) for v in views if g != v]
    return [len(pairs), sum(v >= n_global for _, v in pairs)]


def count_pairs__array(n_global, n_local):
    local = n_global * n_local
    return np.array([local + n_global**2 - n_global, local])


class DINOLoss__einsum(nn.Module):
    def __init__(self, out_dim, student_temp, center_momentum):
        super().__init__()
        self.student_temp, self.center_momentum = student_temp, center_momentum
        self.register_buffer("center", torch.zeros(1, out_dim))

    def forward(self, student_logits, teacher_logits, teacher_temp):
        with torch.no_grad():
            p = ((teacher_logits - self.center) / teacher_temp).softmax(dim=-1)
        log_q = (student_logits / self.student_temp).log_softmax(dim=-1)
        each = -torch.einsum("gbk,vbk->gv", p, log_q) / p.shape[1]
        loss = (each.sum() - each.diagonal().sum()) / (2 * len(log_q) - 2)
        if self.training:
            mean = teacher_logits.detach().mean(dim=(0, 1))
            self.center = self.center * self.center_momentum + mean * (1 - self.center_momentum)
        return loss


class DINOLoss__loop(nn.Module):
    def __init__(self, out_dim, student_temp, center_momentum):
        super().__init__()
        self.temp, self.m = student_temp, center_momentum
        self.register_buffer("center", torch.zeros(1, out_dim))

    @torch.no_grad()
    def update(self, teacher_logits):
        batch = teacher_logits.flatten(0, 1).mean(dim=0, keepdim=True)
        self.center.mul_(self.m).add_(batch, alpha=1 - self.m)

    def forward(self, student_logits, teacher_logits, teacher_temp):
        targets = F.softmax((teacher_logits.detach() - self.center) / teacher_temp, dim=-1)
        losses = [
            F.cross_entropy(s / self.temp, q)
            for g, q in enumerate(targets)
            for v, s in enumerate(student_logits)
            if v != g
        ]
        if self.training:
            self.update(teacher_logits)
        return sum(losses) / len(losses)


def cosine_schedule__numpy(base, final, total_steps, warmup_steps):
    n = total_steps - warmup_steps
    t = np.arange(n)
    rest = final + 0.5 * (base - final) * (1 + np.cos(np.pi * t / n))
    return np.concatenate([np.linspace(0, base, warmup_steps), rest])


def cosine_schedule__loop(base, final, total_steps, warmup_steps):
    table = []
    for step in range(total_steps):
        if step < warmup_steps:
            table.append(base * step / max(warmup_steps - 1, 1))
        else:
            phase = (step - warmup_steps) / (total_steps - warmup_steps)
            table.append(final + (base - final) * (1 + math.cos(math.pi * phase)) / 2)
    return table


def cosine_schedule__torch(base, final, total_steps, warmup_steps):
    table = torch.zeros(total_steps, dtype=torch.float64)
    table[:warmup_steps] = torch.linspace(0, base, warmup_steps, dtype=torch.float64)
    n = total_steps - warmup_steps
    share = (1 + torch.cos(math.pi * torch.arange(n).double() / n)) / 2
    table[warmup_steps:] = base * share + final * (1 - share)
    return table


def decay_groups__ndim(model):
    trained = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]


def decay_groups__names(model):
    groups = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = name.endswith(".bias") or len(parameter.shape) == 1
        groups[plain].append(parameter)
    return groups


def clip_gradients__loop(parameters, max_norm):
    for parameter in parameters:
        if parameter.grad is None:
            continue
        norm = parameter.grad.norm()
        if norm > max_norm:
            parameter.grad.mul_(max_norm / norm)


def clip_gradients__clamp(parameters, max_norm):
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None:
                p.grad.mul_((max_norm / (p.grad.square().sum().sqrt() + 1e-6)).clamp(max=1))


def clip_gradients__library(parameters, max_norm):
    for parameter in parameters:
        torch.nn.utils.clip_grad_norm_([parameter], max_norm)


def information__entr(probabilities):
    mean = torch.special.entr(probabilities.mean(dim=0)).sum()
    return mean - torch.special.entr(probabilities).sum(dim=1).mean()


def information__kl(probabilities):
    mean = probabilities.mean(dim=0)
    ratio = probabilities.clamp_min(1e-12).log() - mean.clamp_min(1e-12).log()
    return (probabilities * ratio).sum(dim=-1).mean()


def information__numpy(probabilities):
    p = probabilities.double().numpy()

    def entropy(q):
        return -sum(x * math.log(x) for x in q if x > 0)

    return entropy(p.mean(axis=0)) - np.mean([entropy(row) for row in p])


# measuring-features


def knn_classify__scatter(train_x, train_y, test_x, k, temperature):
    cosine = F.normalize(test_x, dim=-1) @ F.normalize(train_x, dim=-1).T
    near, index = cosine.topk(k, dim=1)
    votes = torch.zeros(len(test_x), int(train_y.max()) + 1)
    return votes.scatter_add(1, train_y[index], (near / temperature).exp())


def knn_classify__one_hot(train_x, train_y, test_x, k, temperature):
    bank = train_x / train_x.norm(dim=1, keepdim=True)
    queries = test_x / test_x.norm(dim=1, keepdim=True)
    cosine, index = torch.topk(queries @ bank.T, k)
    classes = F.one_hot(train_y, int(train_y.max()) + 1).float()
    return ((cosine / temperature).softmax(dim=1)[:, :, None] * classes[index]).sum(dim=1)


def knn_classify__loop(train_x, train_y, test_x, k, temperature):
    votes = np.zeros((len(test_x), int(train_y.max()) + 1))
    for i, query in enumerate(test_x):
        cosine = F.cosine_similarity(query[None], train_x)
        for j in cosine.argsort(descending=True)[:k].tolist():
            votes[i, int(train_y[j])] += math.exp(cosine[j] / temperature)
    return votes


def retrieval_map__loop(features, labels):
    x = F.normalize(features, dim=-1)
    similarity, n, averages = x @ x.T, len(x), []
    for q in range(n):
        precisions = []
        for i in range(n):
            if i != q and labels[i] == labels[q]:
                above = [j for j in range(n) if j != q and similarity[q, j] >= similarity[q, i]]
                precisions.append(sum(labels[j] == labels[q] for j in above) / len(above))
        averages.append(sum(precisions) / len(precisions))
    return sum(averages) / n


def retrieval_map__matrices(features, labels):
    x = features / features.norm(dim=1, keepdim=True)
    similarity = x @ x.T
    other = ~torch.eye(len(x), dtype=torch.bool)
    right = (labels[:, None] == labels) & other
    above = (similarity[:, None, :] >= similarity[:, :, None]) & other[:, None, :]
    precision = (above & right[:, None, :]).sum(-1) / above.sum(-1).clamp(min=1)
    return ((precision * right).sum(1) / right.sum(1)).mean()


# what-emerges


def attention_mask__sorted(attention, mass):
    share = attention / attention.sum(dim=-1, keepdim=True)
    values, order = share.sort(dim=-1, descending=True)
    before = values.cumsum(dim=-1) - values
    return torch.zeros_like(share, dtype=torch.bool).scatter(-1, order, before < mass)


def attention_mask__loop(attention, mass):
    mask = torch.zeros(attention.shape, dtype=torch.bool)
    for h, row in enumerate(attention.double()):
        held = 0.0
        for patch in row.argsort(descending=True).tolist():
            if held >= mass * row.sum():
                break
            mask[h, patch] = True
            held += row[patch]
    return mask


def attention_mask__numpy(attention, mass):
    a = attention.double().numpy()
    order = np.argsort(-a, axis=1)
    total = np.take_along_axis(a, order, 1).cumsum(1) / a.sum(1, keepdims=True)
    count = (total < mass).sum(axis=1) + 1
    ranks = np.argsort(order, axis=1)
    return ranks < count[:, None]


def region_similarity__sums(predicted, true):
    both = (predicted & true).sum(dim=(1, 2)).float()
    either = (predicted | true).sum(dim=(1, 2)).float()
    return torch.where(either == 0, 1.0, both / either)


def region_similarity__loop(predicted, true):
    result = []
    for p, t in zip(predicted.numpy(), true.numpy(), strict=True):
        union = np.logical_or(p, t).sum()
        result.append(np.logical_and(p, t).sum() / union if union else 1.0)
    return np.array(result)


def region_similarity__sizes(predicted, true):
    p, t = predicted.flatten(1).double(), true.flatten(1).double()
    both = (p * t).sum(1)
    either = p.sum(1) + t.sum(1) - both
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))


def lost_mask__steps(patches, k):
    x = patches - patches.mean(dim=0)
    similarity = x @ x.T
    order = (similarity > 0).sum(dim=1).argsort(stable=True)
    candidates = order[:k]
    joined = candidates[similarity[order[0], candidates] > 0]
    return similarity[joined].sum(dim=0) > 0


def lost_mask__loop(patches, k):
    x = patches.double() - patches.double().mean(dim=0, keepdim=True)
    degree = [sum(float(a @ b) > 0 for b in x) for a in x]
    order = sorted(range(len(x)), key=lambda i: degree[i])
    seed = order[0]
    members = [i for i in order[:k] if x[i] @ x[seed] > 0]
    total = torch.stack([x[i] for i in members]).sum(dim=0)
    return [bool(patch @ total > 0) for patch in x]


def carry_labels__topk(queries, keys, labels, topk, temperature):
    cosine = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T
    near, index = cosine.topk(topk, dim=1)
    weights = (near / temperature).softmax(dim=1)
    return (weights[..., None] * labels[index]).sum(dim=1)


def carry_labels__masked(queries, keys, labels, topk, temperature):
    q, k = (x / x.norm(dim=1, keepdim=True) for x in (queries, keys))
    cosine = q @ k.T
    smallest = cosine.topk(topk, dim=1).values[:, -1:]
    scores = torch.where(cosine >= smallest, cosine / temperature, -torch.inf)
    return scores.softmax(dim=-1) @ labels


def carry_labels__loop(queries, keys, labels, topk, temperature):
    out = []
    for query in queries.double():
        cosine = F.cosine_similarity(query[None], keys.double(), dim=-1)
        best = cosine.argsort(descending=True)[:topk]
        weight = torch.exp(cosine[best] / temperature)
        out.append(weight @ labels[best].double() / weight.sum())
    return torch.stack(out)


# dinov2-objective


def patch_loss__weights(student_logits, targets, masks, student_temp):
    log_q = (student_logits / student_temp).log_softmax(dim=-1)
    entropies = -(targets * log_q).sum(dim=-1) * masks
    return (entropies.sum(dim=1) / masks.sum(dim=1).clamp(min=1)).mean()


def patch_loss__loop(student_logits, targets, masks, student_temp):
    total = 0.0 * student_logits.sum()
    for s, t, mask in zip(student_logits, targets, masks, strict=True):
        if mask.any():
            total = total + F.cross_entropy(s[mask] / student_temp, t[mask])
    return total / len(masks)


def patch_loss__selected(student_logits, targets, masks, student_temp):
    weights = (1 / masks.sum(dim=1).clamp(min=1))[:, None].expand(masks.shape)[masks]
    log_q = F.log_softmax(student_logits[masks].double() / student_temp, dim=-1)
    return -((targets[masks] * log_q).sum(-1) * weights).sum() / masks.shape[0]


def koleo__cdist(features):
    if len(features) < 2:
        return 0 * features.sum()
    x = F.normalize(features, dim=-1)
    squares = (x[:, None] - x[None]).square().sum(dim=-1)
    squares = squares + torch.diag(torch.full((len(x),), 1e9))
    return -(squares.min(dim=1).values + 1e-8).sqrt().log().mean()


def koleo__nearest(features):
    x = features / features.norm(dim=1, keepdim=True)
    if x.shape[0] == 1:
        return (x * 0).sum()
    with torch.no_grad():
        cosine = x @ x.T
        cosine.fill_diagonal_(-2)
        nearest = cosine.argmax(dim=1)
    distance = ((x - x[nearest]).pow(2).sum(dim=1) + 1e-12).sqrt()
    return -torch.log(distance + 1e-6).mean()


def koleo__loop(features):
    x, total = F.normalize(features, dim=1), 0.0 * features.sum()
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        if others:
            squares = torch.stack([(x[i] - x[j]).square().sum() for j in others])
            total = total - 0.5 * torch.log(squares.min() + 1e-10)
    return total / len(x)


def layer_rates__list(depth, decay, patch_embed_mult):
    rates = [decay ** (depth + 1 - layer) for layer in range(depth + 2)]
    rates[0] *= patch_embed_mult
    return rates


def layer_rates__numpy(depth, decay, patch_embed_mult):
    rates = decay ** np.arange(depth + 1, -1, -1)
    rates[0] = rates[0] * patch_embed_mult
    return rates


def layer_rates__downwards(depth, decay, patch_embed_mult):
    rates = [1.0]
    for _ in range(depth + 1):
        rates.insert(0, rates[0] * decay)
    return torch.tensor([rates[0] * patch_embed_mult, *rates[1:]])


# efficient-training


def packed_mask__repeat(lengths):
    crop = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return crop[:, None] == crop[None, :]


def packed_mask__blocks(lengths):
    return torch.block_diag(*(torch.ones(n, n) for n in lengths)).bool()


def packed_mask__numpy(lengths):
    mask, start = np.zeros((sum(lengths), sum(lengths)), dtype=bool), 0
    for n in lengths:
        mask[start : start + n, start : start + n] = True
        start += n
    return mask


def packed_mask__lists(lengths):
    owner = [crop for crop, n in enumerate(lengths) for _ in range(n)]
    return [[one == other for other in owner] for one in owner]


def state_bytes__tuple(parameters, processes, sharding):
    one = 4 * parameters / (processes if sharding == "fsdp" else 1)
    return one, one, one, 2 * one


def state_bytes__array(parameters, processes, sharding):
    copies = np.array([1, 1, 1, 2])
    share = 1 / processes if sharding == "fsdp" else 1
    return copies * 4 * parameters * share


def norm_of_parts__squares(parts):
    return torch.sqrt(sum(part.square().sum() for part in parts))


def norm_of_parts__concatenated(parts):
    return torch.cat([part.flatten() for part in parts]).norm()


def norm_of_parts__norm_of_norms(parts):
    return torch.stack([torch.linalg.vector_norm(part) for part in parts]).norm().item()


def norm_of_parts__double(parts):
    total = 0.0
    for part in parts:
        total += float((part.double() ** 2).sum())
    return total**0.5


# curating-data


def components__repeat(similar):
    n = len(similar)
    linked = similar | torch.eye(n, dtype=torch.bool)
    labels = torch.arange(n)
    for _ in range(n):
        labels = torch.where(linked, labels[None], n).amin(dim=1)
    return labels


def components__search(similar):
    labels = [-1] * len(similar)
    for start in range(len(similar)):
        stack = [start] if labels[start] < 0 else []
        while stack:
            node = stack.pop()
            if labels[node] < 0:
                labels[node] = start
                stack.extend(similar[node].nonzero().flatten().tolist())
    return labels


def components__union_find(similar):
    parent = list(range(len(similar)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for i, j in similar.nonzero().tolist():
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(similar))])


def components__powers(similar):
    reach = (similar | torch.eye(len(similar)).bool()).float()
    for _ in range(len(similar)):
        reach = ((reach @ reach) > 0).float()
    return reach.argmax(dim=1)


def pair_scores__triangle(found, true):
    one = (found[:, None] == found).triu(1)
    other = (true[:, None] == true).triu(1)
    both = (one & other).sum()
    return both / one.sum(), both / other.sum()


def pair_scores__sets(found, true):
    def pairs(groups):
        n = len(groups)
        return {(i, j) for i in range(n) for j in range(i) if groups[i] == groups[j]}

    one, other = pairs(found), pairs(true)
    return len(one & other) / len(one), len(one & other) / len(other)


def pair_scores__counts(found, true):
    def pairs(groups):
        counts = np.unique(groups, return_counts=True, axis=0)[1]
        return (counts * (counts - 1) / 2).sum()

    both = pairs(torch.stack([found, true], dim=1).numpy())
    return [both / pairs(found.numpy()), both / pairs(true.numpy())]


def even_shares__one_at_a_time(sizes, total):
    shares = torch.zeros_like(sizes)
    order = sizes.argsort(descending=True).tolist()
    left = min(total, int(sizes.sum()))
    while left:
        for g in order:
            if left and shares[g] < sizes[g]:
                shares[g] += 1
                left -= 1
    return shares


def even_shares__limit(sizes, total):
    total, limit = min(total, int(sizes.sum())), 0
    while sizes.clamp(max=limit + 1).sum() <= total and limit < sizes.max():
        limit += 1
    shares = sizes.clamp(max=limit)
    for g in sizes.argsort(descending=True)[: total - int(shares.sum())]:
        shares[g] += 1
    return shares


# scaling


def block_flops__sum(tokens, width, ratio):
    linear = tokens * (4 + 2 * ratio) * width**2
    return 2 * (linear + 2 * tokens**2 * width)


def block_flops__parts(tokens, width, ratio):
    qkv = 2 * tokens * width * 3 * width
    scores = 2 * tokens * tokens * width
    mixed = 2 * tokens * tokens * width
    out = 2 * tokens * width * width
    mlp = 2 * 2 * tokens * width * (ratio * width)
    return qkv + scores + mixed + out + mlp


def power_law__polyfit(sizes, errors):
    slope, height = np.polyfit(np.log(sizes.double().numpy()), np.log(errors.double().numpy()), 1)
    return np.exp(height), -slope


def power_law__lstsq(sizes, errors):
    x = sizes.double().log()
    design = torch.stack([torch.ones_like(x), -x], dim=1)
    height, exponent = torch.linalg.lstsq(design, errors.double().log()[:, None]).solution[:, 0]
    return height.exp(), exponent


def power_law__covariance(sizes, errors):
    x, y = sizes.double().log(), errors.double().log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return torch.stack([(y.mean() - slope * x.mean()).exp(), -slope])


def floor_and_factor__polyfit(sizes, errors, exponent):
    factor, floor = np.polyfit(sizes.double().numpy() ** -exponent, errors.double().numpy(), 1)
    return floor, factor


def floor_and_factor__lstsq(sizes, errors, exponent):
    x = sizes.double() ** (-exponent)
    design = torch.stack([torch.ones_like(x), x], dim=1)
    return torch.linalg.lstsq(design, errors.double()).solution


def floor_and_factor__covariance(sizes, errors, exponent):
    x, y = sizes.double().pow(-exponent), errors.double()
    factor = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return [y.mean() - factor * x.mean(), factor]


# high-resolution-finish


def block_products__formula(side, patch_size, width, depth):
    t = 1 + (side // patch_size) ** 2
    return depth * (12 * t * width**2 + 2 * t**2 * width)


def block_products__parts(side, patch_size, width, depth):
    t = (side // patch_size) * (side // patch_size) + 1
    attention = 4 * t * width * width + 2 * t * t * width
    mlp = 2 * t * width * (4 * width)
    return sum(attention + mlp for _ in range(depth))


def recovered__means(low, high, finish):
    return (finish.mean() - low.mean()) / (high.mean() - low.mean())


def recovered__sums(low, high, finish):
    return (finish - low).sum() / (high - low).sum()


def recovered__numpy(low, high, finish):
    low, high, finish = (np.mean(x.double().numpy()) for x in (low, high, finish))
    return 1 - (high - finish) / (high - low)


# distillation


def patch_distillation__product(student_logits, teacher_logits, student_temp, teacher_temp):
    p = (teacher_logits.detach() / teacher_temp).softmax(dim=-1)
    log_q = (student_logits / student_temp).log_softmax(dim=-1)
    return -(p * log_q).sum(dim=-1).mean()


def patch_distillation__cross_entropy(student_logits, teacher_logits, student_temp, teacher_temp):
    with torch.no_grad():
        p = F.softmax(teacher_logits / teacher_temp, dim=-1)
    return F.cross_entropy(student_logits.flatten(0, 2) / student_temp, p.flatten(0, 2))


def patch_distillation__einsum(student_logits, teacher_logits, student_temp, teacher_temp):
    p = torch.softmax(teacher_logits.double().detach() / teacher_temp, -1)
    log_q = torch.log_softmax(student_logits.double() / student_temp, -1)
    crops, batch, patches, _ = p.shape
    return -torch.einsum("cbnk,cbnk->", p, log_q) / (crops * batch * patches)


def average_weights__backwards(momenta):
    left, weights = 1.0, []
    for m in reversed(momenta.tolist()):
        weights.append((1 - m) * left)
        left *= m
    return [left, *reversed(weights)]


def average_weights__forwards(momenta):
    weights = torch.ones(1, dtype=torch.float64)
    for m in momenta.double():
        weights = torch.cat([m * weights, (1 - m)[None]])
    return weights


def average_weights__numpy(momenta):
    m = np.asarray(momenta, dtype=float)
    later = np.array([np.prod(m[i + 1 :]) for i in range(len(m))])
    return np.concatenate([[np.prod(m)], (1 - m) * later])


# frozen-features


def pca_foreground__svd(patches):
    x = patches.flatten(0, 1)
    x = x - x.mean(dim=0)
    side = x @ torch.linalg.svd(x, full_matrices=False).Vh[0] > 0
    if side.sum() > len(side) / 2:
        side = ~side
    return side.reshape(patches.shape[:2])


def pca_foreground__covariance(patches):
    x = patches.reshape(-1, patches.shape[-1]).double()
    x = x - x.mean(dim=0, keepdim=True)
    side = (x @ torch.linalg.eigh(x.T @ x).eigenvectors[:, -1]) < 0
    fewer = side if side.sum() * 2 < len(side) else side.logical_not()
    return fewer.unflatten(0, patches.shape[:2])


def pca_foreground__numpy(patches):
    x = patches.double().numpy().reshape(-1, patches.shape[-1])
    x = x - x.mean(0)
    left, _, _ = np.linalg.svd(x, full_matrices=False)
    mask = left[:, 0] > 0
    mask = mask if mask.mean() <= 0.5 else ~mask
    return mask.reshape(patches.shape[0], patches.shape[1])


def mean_iou__loop(predicted, truth, n_classes):
    scores = []
    for c in range(n_classes):
        both = ((predicted == c) & (truth == c)).sum()
        either = ((predicted == c) | (truth == c)).sum()
        if either > 0:
            scores.append(both / either)
    return sum(scores) / len(scores)


def mean_iou__bincount(predicted, truth, n_classes):
    index = truth.flatten() * n_classes + predicted.flatten()
    counts = torch.bincount(index, minlength=n_classes**2).reshape(n_classes, n_classes).double()
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    return (counts.diag() / union).nanmean()


def mean_iou__one_hot(predicted, truth, n_classes):
    p = F.one_hot(predicted, n_classes).flatten(0, 2).double()
    t = F.one_hot(truth, n_classes).flatten(0, 2).double()
    both = (p * t).sum(0)
    either = p.sum(0) + t.sum(0) - both
    return (both[either > 0] / either[either > 0]).mean().item()


# matching-and-retrieval


def mutual_partners__argmax(first, second):
    cosine = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
    there, back = cosine.argmax(dim=1), cosine.argmax(dim=0)
    return torch.where(back[there] == torch.arange(len(first)), there, -1)


def mutual_partners__loop(first, second):
    partner = []
    for i, patch in enumerate(first):
        j = int(F.cosine_similarity(patch[None], second).argmax())
        back = int(F.cosine_similarity(second[j][None], first).argmax())
        partner.append(j if back == i else -1)
    return partner


def mutual_partners__numpy(first, second):
    a, b = first.double().numpy(), second.double().numpy()
    scores = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (
        b / np.linalg.norm(b, axis=1)[:, None]
    ).T
    best = (scores == scores.max(axis=1)[:, None]) & (scores == scores.max(axis=0)[None])
    return np.where(best.any(axis=1), best.argmax(axis=1), -1)


def places_after__two_corners(places, side, mirror):
    rows, columns = places.T
    first, last = side / 8, side - side / 8
    rows = (rows - first) / (last - first) * side
    columns = (last - columns if mirror else columns - first) / (last - first) * side
    return torch.stack([rows, columns], dim=1)


def places_after__from_the_middle(places, side, mirror):
    flip = torch.tensor([1.0, -1.0 if mirror else 1.0])
    return side / 2 + (places - side / 2) * flip * 4 / 3


def places_after__numpy(places, side, mirror):
    moved = (places.double().numpy() - side / 8) / 0.75
    if mirror:
        moved[:, 1] = side - moved[:, 1]
    return moved


# released-models


def from_timm_names__dict(state):
    ours = {name: value for name, value in state.items() if not name.startswith("head.")}
    ours["register_tokens"] = ours.pop("reg_token")
    rows = ours["pos_embed"]
    ours["pos_embed"] = torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)
    return ours


def from_timm_names__loop(state):
    ours = {}
    for name, value in state.items():
        if name.startswith("head."):
            continue
        if name == "pos_embed":
            value = F.pad(value, (0, 0, 1, 0))
        ours["register_tokens" if name == "reg_token" else name] = value.clone()
    return ours


def to_timm_names__dict(state):
    theirs = dict(state)
    theirs.pop("mask_token", None)
    theirs["reg_token"] = theirs.pop("register_tokens")
    theirs["cls_token"] = theirs["cls_token"] + theirs["pos_embed"][:, :1]
    theirs["pos_embed"] = theirs["pos_embed"][:, 1:]
    return theirs


def to_timm_names__loop(state):
    token, rows = state["pos_embed"].split([1, state["pos_embed"].shape[1] - 1], dim=1)
    theirs = {"reg_token": state["register_tokens"], "pos_embed": rows}
    for name, value in state.items():
        if name == "cls_token":
            theirs[name] = value + token
        elif name not in ("register_tokens", "pos_embed", "mask_token"):
            theirs[name] = value
    return theirs


def high_norm__median(x, factor):
    norms = x.norm(dim=-1)
    return norms > factor * norms.median(dim=1, keepdim=True).values


def high_norm__loop(x, factor):
    masks = []
    for picture in x.double():
        norms = picture.square().sum(dim=1).sqrt()
        masks.append(norms / norms.median() > factor)
    return torch.stack(masks)


def high_norm__sorted(x, factor):
    norms = torch.linalg.vector_norm(x, dim=2)
    middle = norms.sort(dim=1).values[:, (x.shape[1] - 1) // 2]
    return norms > factor * middle[:, None]


# gram-anchoring


def gram_loss__matmul(student, anchor):
    s, a = F.normalize(student, dim=-1), F.normalize(anchor, dim=-1).detach()
    return ((s @ s.mT) - (a @ a.mT)).square().mean()


def gram_loss__mse(student, anchor):
    def gram(x):
        x = x / x.norm(dim=-1, keepdim=True)
        return torch.einsum("bnd,bmd->bnm", x, x)

    with torch.no_grad():
        target = gram(anchor)
    return F.mse_loss(gram(student), target)


def gram_loss__loop(student, anchor):
    total, n = 0.0, student.shape[1]
    for s, a in zip(student.double(), anchor.detach().double(), strict=True):
        ours = F.cosine_similarity(s[:, None], s[None], dim=-1)
        theirs = F.cosine_similarity(a[:, None], a[None], dim=-1)
        total = total + (ours - theirs).pow(2).sum() / n**2
    return total / len(student)


def contrast__indexed(patches, on_object):
    x = F.normalize(patches, dim=-1)
    thing, table = x[on_object], x[~on_object]
    own = thing @ thing.T
    n = len(thing)
    return (own.sum() - own.trace()) / (n * (n - 1)) - (thing @ table.T).mean()


def contrast__loop(patches, on_object):
    inside, across = [], []
    for i, j in itertools.combinations(range(len(patches)), 2):
        cosine = F.cosine_similarity(patches[i], patches[j], dim=0).item()
        if on_object[i] and on_object[j]:
            inside.append(cosine)
        elif on_object[i] or on_object[j]:
            across.append(cosine)
    return np.mean(inside) - np.mean(across)


def contrast__masks(patches, on_object):
    x = patches.double() / patches.double().norm(dim=1, keepdim=True)
    cosine, one = x @ x.T, on_object.double()
    pairs = torch.outer(one, one).fill_diagonal_(0)
    across = torch.outer(one, 1 - one)
    return (cosine * pairs).sum() / pairs.sum() - (cosine * across).sum() / across.sum()


# More, in float64 or numpy from end to end


def byol_loss__functional(prediction, target):
    cosine = torch.func.vmap(lambda p, z: (p @ z) / (p.norm() * z.norm()))
    return (2 - 2 * cosine(prediction, target.detach())).mean()


def rotation_batch__indexed(images):
    size = images.shape[-1]
    last = size - 1 - torch.arange(size)
    turned = [images]
    for _ in range(3):
        turned.append(turned[-1].transpose(2, 3)[:, :, last])
    return torch.cat(turned), torch.tensor([k for k in range(4) for _ in images])


def dino_loss__float64(student_logits, teacher_logits, center, student_temp, teacher_temp):
    p = (teacher_logits.detach().double() - center.double()).div(teacher_temp).softmax(-1)
    log_q = student_logits.double().div(student_temp).log_softmax(-1)
    first = -(p[0] * log_q[1:]).sum(-1).mean(-1).sum()
    others = torch.cat([log_q[:1], log_q[2:]])
    second = -(p[1] * others).sum(-1).mean(-1).sum()
    return (first + second) / (2 * len(log_q) - 2)


def entropy__float64_loop(probabilities):
    flat = probabilities.double().reshape(-1, probabilities.shape[-1])
    found = [sum(-float(p) * math.log(p) for p in row if p > 0) for row in flat]
    return np.array(found).reshape(probabilities.shape[:-1])


def center_update__numpy(center, teacher_logits, momentum):
    batch = teacher_logits.detach().double().numpy().mean(axis=(0, 1))
    return momentum * center.double().numpy() + (1 - momentum) * batch


def teacher_probabilities__in_place(teacher_logits, center, teacher_temp):
    z = teacher_logits.detach().clone()
    z.sub_(center).div_(teacher_temp)
    return z.sub_(z.logsumexp(dim=-1, keepdim=True)).exp_()


def information__divergences(probabilities):
    p = probabilities.double()
    return (torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0))).sum() / len(p)


def knn_classify__numpy(train_x, train_y, test_x, k, temperature):
    bank, queries = train_x.double().numpy(), test_x.double().numpy()
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    cosine, classes = queries @ bank.T, train_y.numpy()
    votes = np.zeros((len(queries), classes.max() + 1))
    for row, near in enumerate(np.argsort(-cosine, axis=1)[:, :k]):
        np.add.at(votes[row], classes[near], np.exp(cosine[row, near] / temperature))
    return votes


def koleo__topk(features):
    x = F.normalize(features.double(), dim=-1)
    if len(x) == 1:
        return (0 * x).sum()
    squares = 2 - 2 * (x @ x.T)
    near = squares.topk(2, dim=1, largest=False).indices
    own = torch.arange(len(x))
    nearest = torch.where(near[:, 0] == own, near[:, 1], near[:, 0])
    return -((x - x[nearest]).square().sum(1) + 1e-14).sqrt().log().mean()


def patch_loss__einsum(student_logits, targets, masks, student_temp):
    log_q = F.log_softmax(student_logits.double() / student_temp, dim=2)
    weights = masks.double() / masks.sum(dim=1, keepdim=True).clamp(min=1)
    return -torch.einsum("bnk,bnk,bn->", targets.double(), log_q, weights) / len(masks)


def gram_loss__expanded(student, anchor):
    s = F.normalize(student, dim=2)
    a = F.normalize(anchor.detach(), dim=2)
    cross = lambda x, y: (x.transpose(1, 2) @ y).square().sum(dim=(1, 2))  # noqa: E731
    n = student.shape[1]
    return ((cross(s, s) - 2 * cross(s, a) + cross(a, a)) / n**2).mean()


def high_norm__numpy(x, factor):
    norms = np.sqrt((x.double().numpy() ** 2).sum(axis=-1))
    middle = np.sort(norms, axis=1)[:, (norms.shape[1] - 1) // 2]
    return norms > factor * middle[:, None]


def shuffle_tiles__numpy(tiles, permutations, answers):
    order = permutations.numpy()[answers.numpy()]
    return tiles.numpy()[order.T, np.arange(len(order))]


def average_weights__steps(momenta):
    weights = [1.0]
    for m in momenta.tolist():
        weights = [m * w for w in weights] + [1 - m]
    return np.array(weights)


def clip_gradients__new_tensor(parameters, max_norm):
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and gradient.norm() > max_norm:
            parameter.grad = gradient / gradient.norm() * max_norm


def decay_groups__sets(model):
    chosen = {name: p for name, p in model.named_parameters() if p.requires_grad}
    plain = {name for name, p in chosen.items() if name.endswith("bias") or p.dim() == 1}
    return (
        [p for name, p in chosen.items() if name not in plain],
        [chosen[name] for name in sorted(plain)],
    )


def swapped__float64_loop(logits, assignments, temperature):
    total = 0.0
    for here, there in ((0, 1), (1, 0)):
        log_p = (logits[here].double() / temperature).log_softmax(dim=-1)
        for b in range(logits.shape[1]):
            total = total - assignments[there, b].double() @ log_p[b]
    return total / (2 * logits.shape[1])


def mean_iou__numpy(predicted, truth, n_classes):
    p, t = predicted.numpy().ravel(), truth.numpy().ravel()
    scores = []
    for c in set(p.tolist()) | set(t.tolist()):
        scores.append(np.sum((p == c) & (t == c)) / np.sum((p == c) | (t == c)))
    return np.mean(scores)


# What mutants are made with


def _same(value):
    return value


def _map(change, value):
    """A change of every number that an answer returns."""
    if isinstance(value, list | tuple | set):
        return type(value)(_map(change, part) for part in value)
    if isinstance(value, dict):
        return {name: _map(change, part) for name, part in value.items()}
    return change(torch.as_tensor(value))
