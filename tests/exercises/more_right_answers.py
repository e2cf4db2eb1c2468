"""More right answers, in styles that people bring along: generators, views, objects to call.

As in `right_answers.py`, `name__style` answers the exercise `name`.
"""

import collections
import copy
import functools
import itertools
import math
import random
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


# why-labels-run-out
def rotation_batch__shuffled(images):
    turned = torch.cat([images.rot90(k, (2, 3)) for k in range(4)])
    answers = torch.arange(4).repeat_interleave(len(images))
    order = torch.randperm(len(answers))
    return turned[order], answers[order]


class _Turner:
    def __init__(self, dims):
        self.dims = dims

    def __call__(self, images):
        out = [
            (torch.rot90(image[None], k, self.dims)[0], k)
            for k in (3, 1, 0, 2)
            for image in images.flip(0)
        ]
        return [
            torch.stack([x for x, _ in out]),
            torch.tensor([k for _, k in out], dtype=torch.uint8),
        ]


rotation_batch__an_object = _Turner((-2, -1))


def rotation_batch__half(images):
    t = torch.stack([images.half().rot90(k, (2, 3)) for k in range(4)], dim=1)
    return t.reshape(-1, *images.shape[1:]), torch.arange(4).expand(len(images), 4).reshape(-1)


def shuffle_tiles__one_hot(tiles, permutations, answers):
    P = F.one_hot(permutations[answers], len(tiles)).to(tiles.dtype)  # b t s
    return torch.einsum("bts,sbchw->tbchw", P, tiles)


def shuffle_tiles__take_along(tiles, permutations, answers):
    o = permutations.numpy()[answers.numpy()].T[:, :, None, None, None]
    return np.take_along_axis(tiles.numpy(), o, axis=0).tolist()


def shuffle_tiles__vmap(tiles, permutations, answers):
    return torch.func.vmap(lambda t, a: t[permutations[a]], in_dims=(1, 0), out_dims=1)(
        tiles, answers
    )


def labelled__random_module(labels, per_class, seed):
    import random

    rng = random.Random(seed)
    by = collections.defaultdict(list)
    for i, y in enumerate(labels.tolist()):
        by[y].append(i)
    out = []
    for y in sorted(by):
        rng.shuffle(by[y])
        out += by[y][:per_class]
    return sorted(out)


def labelled__global_seed(labels, per_class, seed):
    torch.manual_seed(seed)
    order = torch.randperm(len(labels))
    kinds = labels[order]
    before = torch.ones(len(kinds), len(kinds)).tril(-1).bool()
    rank = ((kinds[:, None] == kinds) & before).sum(1)
    return order[rank < per_class]


def labelled__generator(labels, per_class, seed):
    rng = np.random.RandomState(seed)
    for kind in sorted(set(labels.tolist())):
        yield from rng.permutation(np.nonzero(labels.numpy() == kind)[0])[:per_class].tolist()


# images-as-tokens
def to_patches__conv(images, patch_size):
    c, p = images.shape[1], patch_size
    kernel = torch.eye(c * p * p).reshape(-1, c, p, p)
    return F.conv2d(images, kernel, stride=p).flatten(2).mT


def to_patches__einsum(images, patch_size):
    b, c, h, w = images.shape
    p = patch_size
    return torch.einsum(
        "bcyixj->byxcij", images.unflatten(3, (-1, p)).unflatten(2, (-1, p))
    ).reshape(b, h * w // p**2, -1)


def to_patches__pixel_unshuffle(images, *, patch_size):
    return F.pixel_unshuffle(images, patch_size).flatten(2).transpose(1, 2)


def to_patches__partial(images, patch_size):
    return (
        functools.partial(F.pixel_unshuffle, downscale_factor=patch_size)(images)
        .flatten(2)
        .transpose(1, 2)
    )


del to_patches__pixel_unshuffle


def attention__mha(x, qkv_weight, qkv_bias, proj_weight, proj_bias, heads):
    out, w = F.multi_head_attention_forward(
        x.transpose(0, 1),
        x.transpose(0, 1),
        x.transpose(0, 1),
        x.shape[-1],
        heads,
        qkv_weight,
        qkv_bias,
        None,
        None,
        False,
        0.0,
        proj_weight,
        proj_bias,
    )
    return [out.transpose(0, 1), w]


def attention__numpy(x, qkv_weight, qkv_bias, proj_weight, proj_bias, heads):
    X, W, b, P, pb = (t.double().numpy() for t in (x, qkv_weight, qkv_bias, proj_weight, proj_bias))
    qkv = X @ W.T + b
    D = X.shape[-1]
    d = D // heads
    q, k, v = np.split(qkv, 3, axis=-1)
    outs = []
    for h in range(heads):
        s = np.s_[..., h * d : (h + 1) * d]
        a = q[s] @ np.swapaxes(k[s], 1, 2) / np.sqrt(d)
        a = np.exp(a - a.max(-1, keepdims=True))
        a /= a.sum(-1, keepdims=True)
        outs.append(a @ v[s])
    return np.concatenate(outs, -1) @ P.T + pb


def attention__vmap(x, qkv_weight, qkv_bias, proj_weight, proj_bias, heads):
    def one(t):
        q, k, v = (
            F.linear(t, qkv_weight, qkv_bias).unflatten(-1, (3, heads, -1)).permute(1, 2, 0, 3)
        )
        return F.linear(
            ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1).matmul(v).transpose(0, 1).flatten(1),
            proj_weight,
            proj_bias,
        )

    return torch.vmap(one)(x), None


def resize_positions__float64(pos_embed, n, height, width):
    p = pos_embed.double()
    g = p[0, 1:].T.reshape(1, -1, n, n)
    g = F.interpolate(
        g,
        scale_factor=[(height + 0.1) / n, (width + 0.1) / n],
        mode="bicubic",
        align_corners=False,
        antialias=False,
    )
    return torch.cat((p[:, :1], g.permute(0, 2, 3, 1).reshape(1, height * width, -1)), 1)


def resize_positions__list(pos_embed, n, height, width):
    cls, grid = pos_embed.split([1, n * n], dim=1)
    g = F.interpolate(
        grid.unflatten(1, (n, n)).movedim(-1, 1),
        scale_factor=((height + 0.1) / n, (width + 0.1) / n),
        mode="bicubic",
        recompute_scale_factor=False,
    )
    return [torch.cat([cls[0], g[0].flatten(1).T])]


# contrast
def info_nce__cosine_matrix(query, key, negatives, temperature):
    cand = torch.cat([key[:, None], negatives.expand(len(query), *negatives.shape)], 1)
    s = torch.cosine_similarity(query[:, None], cand, dim=-1).div(temperature)
    return F.nll_loss(s.log_softmax(-1), torch.zeros(len(s), dtype=torch.int64))


class _NCE(nn.Module):
    def forward(self, query, key, negatives, temperature):
        q, k, n = map(functools.partial(F.normalize, dim=1), (query, key.detach(), negatives))
        gap = (q @ n.T - torch.einsum("bd,bd->b", q, k)[:, None]) / temperature
        return torch.cat([torch.zeros(len(q), 1), gap], 1).logsumexp(1).mean()


info_nce__module = _NCE()


def info_nce__softplus(query, key, negatives, temperature):
    s = F.normalize(query) @ torch.cat([F.normalize(key), F.normalize(negatives)]).T / temperature
    b = len(query)
    own = s[:, :b].diagonal()
    rest = torch.logsumexp(s[:, b:], dim=1)
    return F.softplus(rest - own).mean(0, keepdim=True)


def nt_xent__softplus(view_1, view_2, temperature):
    z1, z2 = F.normalize(view_1), F.normalize(view_2)
    b = len(z1)
    eye = torch.eye(b, dtype=torch.bool)
    loss = 0
    for x, y in ((z1, z2), (z2, z1)):
        cross = x @ y.T / temperature
        own = (x @ x.T / temperature).masked_fill(eye, -1e30)
        loss += F.cross_entropy(torch.cat([cross, own], 1), torch.arange(b))
    return loss / 2


def nt_xent__drop_diagonal(view_1, view_2, temperature):
    z = torch.cat([view_1.double(), view_2.double()])
    z = z / torch.linalg.norm(z, dim=1, keepdim=True)
    m = len(z)
    s = (z @ z.T / temperature)[~torch.eye(m).bool()].view(m, m - 1)
    i = torch.arange(m)
    j = (i + m // 2) % m
    j = j - (j > i).long()
    return (s.logsumexp(1) - s[i, j]).sum() / m


def swapped__soft_ce(logits, assignments, temperature):
    lp = torch.log_softmax(logits.mul(1 / temperature), -1)
    return 0.5 * sum(-torch.tensordot(assignments[1 - v], lp[v]) for v in (0, 1)) / logits.size(1)


class _Swap:
    def __call__(self, logits, assignments, temperature):
        a, b = (logits / temperature).unbind()
        qa, qb = assignments.unbind()
        ce = nn.CrossEntropyLoss()
        return (ce(a, qb) + ce(b, qa)).mul(0.5)


swapped__object = _Swap()


# byol
def byol_loss__mse_sum(prediction, target):
    return F.mse_loss(F.normalize(prediction), F.normalize(target.detach()), reduction="sum") / len(
        target
    )


class _Byol(nn.Module):
    def __init__(self):
        super().__init__()
        self.cos = nn.CosineSimilarity(dim=1)

    def forward(self, prediction, target):
        return (1 - self.cos(prediction, target.data)).mul(2).mean()


byol_loss__module = _Byol()


def byol_loss__embedding_loss(prediction, target, *, eps=0.0):
    return 2 * F.cosine_embedding_loss(
        prediction, target.detach(), torch.ones(len(prediction)), margin=eps
    )


def both_directions__frozen(student, predictor, teacher, view_1, view_2):
    teacher.requires_grad_(False)
    loss = 0.0
    for a, b in [(view_1, view_2), (view_2, view_1)]:
        p, z = predictor(student(a)), teacher(b)
        loss += 2 - 2 * F.cosine_similarity(p, z).mean()
    return loss


@torch.enable_grad()
def both_directions__functional(student, predictor, teacher, view_1, view_2):
    params = {k: v.detach() for k, v in teacher.named_parameters()}

    def t(v):
        return torch.func.functional_call(teacher, params, (v,))

    def f(v):
        return predictor(student(v))

    n = F.normalize
    return (
        4 - 2 * (n(f(view_1)) * n(t(view_2))).sum(1) - 2 * (n(f(view_2)) * n(t(view_1))).sum(1)
    ).mean()


def trained_parameters__generator(student, predictor, teacher):
    for net in (student, predictor):
        yield from net.parameters()


def trained_parameters__filter(student, predictor, teacher):
    return nn.ModuleList([student, predictor]).parameters()


def trained_parameters__single_groups(student, predictor, teacher):
    return tuple(
        {"params": p, "lr": 0.1} for p in list(predictor.parameters()) + list(student.parameters())
    )


# self-distillation
def soft_cross_entropy__numpyless_loop(student_logits, teacher_logits, temperature):
    rows = []
    for s, t in zip(student_logits, teacher_logits, strict=True):
        q = torch.softmax(s / temperature, 0)
        p = torch.softmax(t / temperature, 0)
        rows.append(-sum(pi * torch.log(qi) for pi, qi in zip(p, q, strict=True)))
    return sum(rows) / len(rows) * temperature**2


def soft_cross_entropy__logsumexp(student_logits, teacher_logits, temperature):
    s = student_logits / temperature
    p = (teacher_logits.detach() / temperature).softmax(1)
    return temperature**2 * (s.logsumexp(1) - torch.einsum("bk,bk->b", p, s)).mean().double()


def dino_loss__sum_trick(student_logits, teacher_logits, center, student_temp, teacher_temp):
    p = torch.softmax((teacher_logits.data - center) / teacher_temp, 2)
    log_q = torch.log_softmax(student_logits / student_temp, 2)
    total = (p.sum(0) * log_q.sum(0)).sum() - (p * log_q[:2]).sum()
    return -total / p.size(1) / (2 * (log_q.size(0) - 1))


class _Dino(nn.Module):
    def forward(self, student_logits, teacher_logits, center, student_temp, teacher_temp):
        qs = [(t - center).div(teacher_temp).softmax(-1).detach() for t in teacher_logits.chunk(2)]
        out = [
            torch.sum(-q * F.log_softmax(s / student_temp, -1), -1).mean()
            for g, q in enumerate(qs)
            for v, s in enumerate(student_logits.chunk(len(student_logits)))
            if v != g
        ]
        return torch.stack(out).mean()


dino_loss__module = _Dino()


def dino_loss__reference(*args):
    s, t, c, st, tt = args
    total, n = 0, 0
    for iq, q in enumerate(F.softmax((t - c) / tt, dim=-1).detach()):
        for v in range(len(s)):
            if v == iq:
                continue
            total += torch.sum(-q * F.log_softmax(s[v] / st, dim=-1), dim=-1).mean()
            n += 1
    total /= n
    return total


# multi-crop
def crop_pairs__permutations(n_global, n_local):
    return list(itertools.permutations(range(n_global), 2)) + [
        [g, n_global + v] for v in range(n_local) for g in range(n_global)
    ]


def crop_pairs__generator(n_global, n_local):
    for v in reversed(range(n_global + n_local)):
        for g in range(n_global):
            if v - g:
                yield g, v


def crop_pairs__numpy(n_global, n_local):
    g, v = np.meshgrid(np.arange(n_global), np.arange(n_global + n_local))
    keep = g != v
    return np.stack([g[keep], v[keep]], axis=-1)


def split_loss__numpy(student_logits, targets, student_temp):
    s = student_logits.double().numpy() / student_temp
    s -= s.max(-1, keepdims=True)
    lq = s - np.log(np.exp(s).sum(-1, keepdims=True))
    t = targets.double().numpy()
    c = -np.einsum("gbk,vbk->gv", t, lq) / t.shape[1]
    n = 2 * len(lq) - 2
    return np.array([c[:, 2:].sum(), c[0, 1] + c[1, 0]]) / n


SplitParts = collections.namedtuple("SplitParts", "local_part global_part")


def split_loss__namedtuple(student_logits, targets, student_temp):
    V = student_logits.shape[0]

    def ce(g, v):
        return F.cross_entropy(student_logits[v] / student_temp, targets[g])

    pairs = [(g, v) for g in (0, 1) for v in range(V) if v != g]
    return SplitParts(
        sum(ce(g, v) for g, v in pairs if v > 1) / len(pairs),
        sum(ce(g, v) for g, v in pairs if v < 2) / len(pairs),
    )


def draw_boxes__per_box(n, scale, size, generator):
    r = random.Random(int(torch.randint(2**31, (), generator=generator))).random

    boxes = []
    for _ in range(n):
        while True:
            a = (scale[0] + (scale[1] - scale[0]) * r()) * size * size
            q = math.exp((2 * r() - 1) * math.log(4 / 3))
            h, w = round(math.sqrt(a / q)), round(math.sqrt(a * q))
            if h <= size and w <= size:
                break
        top = int(r() * (size - h + 1))
        left = int(r() * (size - w + 1))
        boxes.append((top, left, h, w))
    return boxes


def draw_boxes__numpy_from_generator(n, scale, size, generator):
    rng = np.random.default_rng(torch.randint(2**31, (1,), generator=generator).item())
    h = np.full(n, size + 1.0)
    w = h.copy()
    while (bad := (h > size) | (w > size)).any():
        m = bad.sum()
        a = rng.uniform(*scale, m) * size**2
        q = np.exp(rng.uniform(np.log(0.75), np.log(4 / 3), m))
        h[bad], w[bad] = np.rint(np.sqrt(a / q)), np.rint(np.sqrt(a * q))
    return np.stack([rng.integers(0, size - h + 1), rng.integers(0, size - w + 1), h, w], 1)


# centering
def teacher_probabilities__float64(teacher_logits, center, teacher_temp):
    return torch.stack(
        [
            torch.softmax((t.double() - center.double().squeeze(0)) / teacher_temp, 1)
            for t in teacher_logits
        ]
    )


class _Probs:
    def __init__(self, dim):
        self.dim = dim

    def __call__(self, teacher_logits, center, teacher_temp):
        return nn.Softmax(self.dim)(
            torch.sub(teacher_logits, center).mul(1 / teacher_temp)
        ).tolist()


teacher_probabilities__object = _Probs(-1)


def center_update__true_in_place(center, teacher_logits, momentum):
    center.mul_(momentum).add_(
        teacher_logits.reshape(-1, center.shape[-1]).mean(0) * (1 - momentum)
    )
    return center


@torch.inference_mode()
def center_update__inference(center, teacher_logits, momentum):
    return torch.lerp(teacher_logits.mean((0, 1), keepdim=True)[0], center, momentum)


def center_update__loop(center, teacher_logits, momentum):
    c, n = [0.0] * center.shape[1], 0
    for view in teacher_logits.tolist():
        for row in view:
            n += 1
            c = [a + b for a, b in zip(c, row, strict=True)]
    old = center[0].tolist()
    return [momentum * o + (1 - momentum) * s / n for o, s in zip(old, c, strict=True)]


def sinkhorn__log_domain_in_place(logits, temp, n_iters):
    f, g = (
        torch.zeros(len(logits), 1, dtype=torch.float64),
        torch.zeros(1, logits.shape[1], dtype=torch.float64),
    )
    s = logits.double() / temp
    for _ in range(n_iters):
        g = -(s + f).logsumexp(0, keepdim=True)
        f = -(s + g).logsumexp(1, keepdim=True)
    return (s + f + g).exp()


def sinkhorn__papers_factors(logits, temp, n_iters):
    Q = torch.exp((logits - logits.max()) / temp).t()
    K, B = Q.shape
    Q = Q / Q.sum()
    for _ in range(n_iters):
        Q = Q / Q.sum(dim=1, keepdim=True) / K
        Q = Q / Q.sum(dim=0, keepdim=True) / B
    return (Q * B).t()


def entropy__categorical(probabilities):
    return torch.distributions.Categorical(probs=probabilities).entropy()


def entropy__masked(probabilities):
    logs = torch.where(probabilities > 0, probabilities, torch.ones(())).log()
    return -torch.einsum("...k,...k->...", probabilities, logs)


def entropy__nan_to_num(probabilities):
    return (probabilities * probabilities.log()).nan_to_num(nan=0.0).sum(-1).neg()


# momentum
def make_teacher__pickle(student):
    import io

    f = io.BytesIO()
    torch.save(student, f)
    f.seek(0)
    return torch.load(f, weights_only=False).requires_grad_(False)


@torch.no_grad()
def make_teacher__load_state(student):
    teacher = copy.deepcopy(student)
    teacher.load_state_dict({k: v.clone() for k, v in student.state_dict().items()})
    for p in teacher.parameters():
        p.requires_grad_(False)
    return teacher


class _Frozen(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = copy.deepcopy(net)
        for p in self.parameters():
            p.requires_grad = False

    def forward(self, x):
        return self.net(x)


def make_teacher__wrapped(student):
    return _Frozen(student)


def ema_update__load_state(teacher, student, momentum):
    t, s = teacher.state_dict(), student.state_dict()
    teacher.load_state_dict(
        {
            k: (momentum * t[k] + (1 - momentum) * s[k]) if t[k].is_floating_point() else s[k]
            for k in t
        }
    )


@torch.no_grad()
def ema_update__foreach(teacher, student, momentum):
    t = [
        x for x in itertools.chain(teacher.parameters(), teacher.buffers()) if x.is_floating_point()
    ]
    s = [
        x for x in itertools.chain(student.parameters(), student.buffers()) if x.is_floating_point()
    ]
    torch._foreach_mul_(t, momentum)
    torch._foreach_add_(t, s, alpha=1 - momentum)
    for a, b in zip(teacher.buffers(), student.buffers(), strict=True):
        if not a.is_floating_point():
            a.copy_(b)


def ema_update__averaged_model(teacher, student, momentum):
    for k, v in teacher.state_dict().items():
        w = student.state_dict()[k].detach()
        if torch.is_floating_point(v):
            v.data.copy_(v.data + (1 - momentum) * (w - v.data))


def half_life__change_of_base(momentum):
    return math.log(1 / 2, momentum)


def half_life__bisect(momentum):
    lo, hi = 0.0, 1e6
    for _ in range(200):
        mid = (lo + hi) / 2
        lo, hi = (mid, hi) if momentum**mid > 0.5 else (lo, mid)
    return [lo]


def debiased_ema__generator(values, momentum):
    a, power = 0.0, 1.0
    for v in values.tolist():
        a = momentum * a + (1 - momentum) * v
        power *= momentum
        yield a / (1 - power)


def debiased_ema__accumulate(values, momentum):
    acc = list(
        itertools.accumulate(
            values.tolist(), lambda a, v: momentum * a + (1 - momentum) * v, initial=0.0
        )
    )[1:]
    return {t: a / (1 - momentum**t) for t, a in enumerate(acc, 1)}.values()


def debiased_ema__cumsum(values, momentum):
    t = torch.arange(1, len(values) + 1, dtype=torch.float64)
    a = (1 - momentum) * (values.double() * momentum**-t).cumsum(0) * momentum**t
    return a / (1 - momentum**t)


def momentum_at__lerp(step, total, start):
    w = 0.5 - 0.5 * math.cos(math.pi * step / total)
    return torch.lerp(
        torch.tensor(start, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64), w
    )


def momentum_at__table(step, total, start):
    table = 1 - (1 - start) * (np.cos(np.pi * np.arange(total) / total) + 1) / 2
    return table[step]


# training-dino
class _Count:
    def __call__(self, n_global, n_local):
        seen = itertools.product(range(n_global), range(n_global + n_local))
        c = collections.Counter("local" if v >= n_global else "g" for g, v in seen if g != v)
        return torch.tensor([c.total(), c["local"]])


count_pairs__counter = _Count()


def count_pairs__yields(n_global, n_local):
    yield n_global * (n_global - 1) + n_global * n_local
    yield n_global * n_local


class DINOLoss__reference(nn.Module):
    def __init__(self, out_dim, student_temp=0.1, center_momentum=0.9, **kwargs):
        super().__init__()
        self.student_temp = student_temp
        self.center_momentum = center_momentum
        self.register_buffer("center", torch.zeros(1, out_dim))

    def forward(self, student_output, teacher_output, temp):
        student_out = (student_output / self.student_temp).unbind(0)
        teacher_out = F.softmax((teacher_output - self.center) / temp, dim=-1).detach().chunk(2)
        total, n = 0, 0
        for iq, q in enumerate(teacher_out):
            for v in range(len(student_out)):
                if v == iq:
                    continue
                total += torch.sum(-q[0] * F.log_softmax(student_out[v], dim=-1), dim=-1).mean()
                n += 1
        if self.training:
            self.update_center(teacher_output)
        return total / n

    @torch.no_grad()
    def update_center(self, teacher_output):
        c = torch.sum(teacher_output, dim=(0, 1), keepdim=True)[0] / (
            teacher_output.shape[0] * teacher_output.shape[1]
        )
        self.center = self.center * self.center_momentum + c * (1 - self.center_momentum)


class DINOLoss__flat_center(nn.Module):
    center: torch.Tensor

    def __init__(self, k, temp, m):
        super().__init__()
        self.temp, self.m = temp, m
        self.register_buffer("center", torch.zeros(k)[None])

    def __call__(self, s, t, tt):
        t = t.detach()
        p = ((t - self.center) / tt).softmax(-1)
        log_q = (s / self.temp).log_softmax(-1)
        cost = -torch.einsum("gbk,vbk->gv", p, log_q) / t.shape[1]
        loss = cost[~torch.eye(2, len(s), dtype=torch.bool)].mean()
        if self.training:
            self.center.lerp_(t.mean(dim=[0, 1])[None], 1 - self.m)
        return loss


def DINOLoss__factory(*args):
    return DINOLoss__reference(*args)


def cosine_schedule__generator(base, final, total_steps, warmup_steps):
    for s in range(warmup_steps):
        yield base * s / (warmup_steps - 1) if warmup_steps > 1 else 0.0
    n = total_steps - warmup_steps
    for t in range(n):
        yield final + (base - final) * math.cos(math.pi * t / 2 / n) ** 2


def cosine_schedule__where(base, final, total_steps, warmup_steps):
    s = np.arange(total_steps)
    n = total_steps - warmup_steps
    return np.where(
        s < warmup_steps,
        s * base / max(1, warmup_steps - 1),
        final + (base - final) * 0.5 * (1 + np.cos(np.pi * (s - warmup_steps) / n)),
    ).astype(np.float32)


def decay_groups__generators(model):
    ps = [p for p in model.parameters() if p.requires_grad]
    return filter(lambda p: p.dim() >= 2, ps), (p for p in ps if p.dim() < 2)


def decay_groups__modules(model):
    decay, plain = {}, {}
    for m in model.modules():
        for n, p in m.named_parameters(recurse=False):
            if p.requires_grad:
                (plain if n == "bias" or p.squeeze().dim() < 1 or len(p.size()) == 1 else decay)[
                    p
                ] = n
    return tuple(decay), list(plain)


def clip_gradients__unit(parameters, max_norm):
    for g in (p.grad for p in parameters):
        if g is not None:
            g.div_(max(1.0, float(torch.linalg.vector_norm(g)) / max_norm))


def clip_gradients__data(parameters, max_norm):
    norms = []
    for p in parameters:
        if p.grad is None:
            continue
        n = p.grad.data.norm(2)
        c = max_norm / (n + 1e-6)
        norms.append(n)
        if c < 1:
            p.grad.data.mul_(c)
    return norms


def information__categorical(probabilities):
    C = torch.distributions.Categorical
    return C(probs=probabilities.mean(0)).entropy() - C(probs=probabilities).entropy().mean()


def information__fsum(probabilities):
    def H(p):
        return -math.fsum(x * math.log(x) for x in p if x)

    rows = probabilities.tolist()
    mean = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    return H(mean) - statistics.fmean(map(H, rows))


# measuring
def knn_classify__masked(train_x, train_y, test_x, k, temperature):
    c = F.cosine_similarity(test_x[:, None], train_x[None], dim=-1)
    kth = c.kthvalue(len(train_x) - k + 1, dim=1, keepdim=True).values
    w = torch.where(c >= kth, (c / temperature).exp(), 0.0)
    return w @ torch.eye(int(train_y.max()) + 1)[train_y]


def knn_classify__index_add(train_x, train_y, test_x, k, temperature):
    C = train_y.max().item() + 1
    out = []
    for q in F.normalize(test_x.double(), dim=1):
        v, i = (F.normalize(train_x.double(), dim=1) @ q).topk(k)
        out.append(
            torch.zeros(C, dtype=torch.float64).index_add_(
                0, train_y[i], torch.exp((v - v.max()) / temperature)
            )
        )
    return out


def retrieval_map__sorted(features, labels):
    f = features.double().numpy()
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    y = labels.numpy()
    aps = []
    for i in range(len(f)):
        o = [j for j in range(len(f)) if j != i]
        s = np.round(f[o] @ f[i], 9)
        hit = y[o] == y[i]
        aps.append(np.mean([hit[s >= v].mean() for v in s[hit]]))
    return float(np.mean(aps))


def retrieval_map__cosine(features, labels):
    s = F.cosine_similarity(features[:, None], features[None], dim=2).fill_diagonal_(-math.inf)
    same = (labels[:, None] == labels[None]).fill_diagonal_(False)
    ge = s[:, None, :] >= s[:, :, None]
    prec = (ge & same[:, None]).sum(2) / ge.sum(2)
    return torch.stack([p[m].mean() for p, m in zip(prec, same, strict=True)]).mean()


def retrieval_map__eps(features, labels):
    x = features.double()
    x = x / (x.norm(dim=-1, keepdim=True) + 1e-8)
    s = x @ x.T
    ap = []
    for q in range(len(x)):
        keep = torch.arange(len(x)) != q
        sim, right = s[q][keep], (labels == labels[q])[keep]
        ap.append(torch.tensor([right[sim >= t].double().mean() for t in sim[right]]).mean())
    return sum(ap) / len(ap)


# what-emerges
def attention_mask__threshold(attention, mass):
    v, _ = attention.sort(-1, descending=True)
    c = v.cumsum(-1)
    need = (c < mass * c[:, -1:]).sum(-1, keepdim=True)
    return attention >= v.gather(-1, need)


def attention_mask__lists(attention, mass):
    out = []
    for row in attention.tolist():
        order = sorted(range(len(row)), key=row.__getitem__, reverse=True)
        held, keep = 0.0, set()
        while held < mass * sum(row):
            i = order[len(keep)]
            keep.add(i)
            held += row[i]
        out.append([i in keep for i in range(len(row))])
    return out


def region_similarity__generator(predicted, true):
    for p, t in zip(predicted, true, strict=True):
        u = (p | t).sum().item()
        yield (p & t).sum().item() / u if u else 1.0


def region_similarity__einsum(predicted, true):
    p, t = predicted.float(), true.float()
    i = torch.einsum("thw,thw->t", p, t)
    u = torch.maximum(p, t).sum((1, 2))
    j = i / u
    j[u == 0] = 1
    return j


def region_similarity__nan(predicted, true):
    return (
        (predicted * true).float().sum((-1, -2)) / (predicted + true).float().sum((-1, -2))
    ).nan_to_num(nan=1.0)


def lost_mask__numpy(patches, k):
    x = patches.double().numpy()
    x = x - x.mean(0)
    s = x @ x.T
    o = np.argsort((s > 0).sum(1), kind="stable")[:k]
    return s[o[s[o[0], o] > 0]].sum(0) > 0


def lost_mask__list_of_tensors(patches, k):
    x = patches - patches.mean(0, keepdim=True)
    deg = torch.stack([(x @ p > 0).sum() for p in x]).tolist()
    few = sorted(range(len(deg)), key=lambda i: (deg[i], i))[:k]
    joined = sum(x[i] for i in few if x[i] @ x[few[0]] > 0)
    return [p @ joined > 0 for p in x]


def carry_labels__einsum(queries, keys, labels, topk, temperature):
    s = F.cosine_similarity(queries[:, None], keys[None], dim=-1)
    m = torch.full_like(s, -torch.inf).scatter(1, s.topk(topk).indices, 0.0)
    return torch.einsum("nm,mc->nc", F.softmax(s / temperature + m, dim=1), labels)


def carry_labels__numpy(queries, keys, labels, topk, temperature):
    q, k, soft = (a.double().numpy() for a in (queries, keys, labels))
    s = (q / np.linalg.norm(q, axis=1)[:, None]) @ (k / np.linalg.norm(k, axis=1)[:, None]).T
    out = []
    for r in s:
        i = np.argpartition(-r, topk - 1)[:topk]
        out.append(np.average(soft[i], axis=0, weights=np.exp(r[i] / temperature)))
    return out


# dinov2
def patch_loss__where(student_logits, targets, masks, student_temp):
    ce = torch.where(
        masks,
        -(targets * F.log_softmax(student_logits / student_temp, -1)).sum(-1),
        torch.zeros(()),
    )
    n = masks.sum(1)
    return (ce.sum(1)[n > 0] / n[n > 0]).sum() / len(masks)


def patch_loss__ce(student_logits, targets, masks, student_temp):
    ce = F.cross_entropy(
        (student_logits / student_temp).flatten(0, 1), targets.flatten(0, 1), reduction="none"
    ).view(masks.shape)
    w = masks / masks.sum(-1, keepdim=True).clamp_min(1)
    return (ce * w).sum(-1).mean()


def koleo__added_to_distance(features):
    x = F.normalize(features, eps=1e-8, p=2, dim=-1)
    if len(x) < 2:
        return features.new_zeros(())
    with torch.no_grad():
        d = x @ x.T
        d.view(-1)[:: len(x) + 1].fill_(-1)
        i = d.max(dim=1).indices
    return -torch.log(nn.PairwiseDistance(2, eps=1e-8)(x, x[i]) + 1e-4).mean()


def koleo__zero(features):
    if features.shape[0] == 1:
        return 0.0
    x = features.double() / features.double().norm(dim=1, keepdim=True)
    n = len(x)
    sq = (
        (x.unsqueeze(1) - x.unsqueeze(0))
        .pow(2)
        .sum(2)[~torch.eye(n, dtype=torch.bool)]
        .view(n, n - 1)
    )
    return -0.5 * (sq.amin(1) + 1e-8).log().mean()


def layer_rates__comprehension(depth, decay, patch_embed_mult):
    return (
        decay ** (depth + 1) * patch_embed_mult,
        *(decay ** (depth - i) for i in range(depth)),
        1,
    )


def layer_rates__generator(depth, decay, patch_embed_mult):
    for i in range(depth + 2):
        yield decay ** (depth + 1 - i) * (patch_embed_mult if i == 0 else 1)


# efficient
def packed_mask__list_of_tensors(lengths):
    owner = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    return [owner == o for o in owner]


def packed_mask__edges(lengths):
    e = torch.tensor(lengths).cumsum(0)
    i = torch.bucketize(torch.arange(sum(lengths)), e, right=True)
    return torch.eq(*torch.meshgrid(i, i, indexing="ij"))


def packed_mask__kron(lengths):
    return np.equal.outer(
        np.repeat(np.arange(len(lengths)), lengths), np.repeat(np.arange(len(lengths)), lengths)
    )


def state_bytes__dict_values(parameters, processes, sharding):
    size = parameters * 32 // 8
    n = {"none": 1, "fsdp": processes}[sharding]
    return {
        "student": size / n,
        "teacher": size / n,
        "gradients": size / n,
        "adamw": (size + size) / n,
    }.values()


def state_bytes__generator(parameters, processes, sharding):
    if sharding == "fsdp":
        parameters /= processes
    yield from (4 * parameters * k for k in (1, 1, 1, 2))


def norm_of_parts__hypot(parts):
    return math.hypot(*(float(p.norm()) for p in parts))


def norm_of_parts__reduce(parts):
    return functools.reduce(
        lambda a, p: torch.hypot(a, torch.linalg.norm(p)), parts, torch.zeros(())
    )


def norm_of_parts__total(parts):
    return nn.utils.get_total_norm(parts)


# curating
def components__scipy_like(similar):
    labels = torch.arange(len(similar))
    s = similar | similar.T
    while True:
        new = torch.stack(
            [labels[row | (torch.arange(len(row)) == i)].min() for i, row in enumerate(s)]
        )
        if torch.equal(new, labels):
            return labels.tolist()
        labels = new


def components__recursive(similar):
    n = len(similar)
    label = {}

    def visit(i, name):
        if i in label:
            return
        label[i] = name
        for j in range(n):
            if similar[i][j]:
                visit(j, name)

    for i in range(n):
        visit(i, i)
    return np.array([label[i] for i in range(n)], dtype=np.int16)


def pair_scores__combinations(found, true):
    f, t = found.tolist(), true.tolist()
    tp = fp = fn = 0
    for i, j in itertools.combinations(range(len(f)), 2):
        a, b = f[i] == f[j], t[i] == t[j]
        tp += a and b
        fp += a and not b
        fn += b and not a
    return np.array([tp / (tp + fp), tp / (tp + fn)])


def pair_scores__comb(found, true):
    def c2(xs):
        return sum(math.comb(n, 2) for n in collections.Counter(xs).values())

    both = c2(zip(found.tolist(), true.tolist(), strict=True))
    yield both / c2(found.tolist())
    yield both / c2(true.tolist())


def even_shares__water(sizes, total):
    s = sizes.numpy().astype(int)
    total = int(min(total, s.sum()))
    out = np.zeros(len(s), int)
    order = np.argsort(s, kind="stable")
    left = total
    for rank, g in enumerate(order):
        out[g] = min(s[g], left // (len(s) - rank))
        left -= out[g]
    return out


def even_shares__rounds(sizes, total):
    shares = [0] * len(sizes)
    left = min(int(total), int(sum(sizes)))
    while left:
        open_ = [g for g in range(len(sizes)) if shares[g] < sizes[g]]
        if left >= len(open_):
            for g in open_:
                shares[g] += 1
            left -= len(open_)
        else:
            for g in sorted(open_, key=lambda g: -sizes[g])[:left]:
                shares[g] += 1
            left = 0
    return [float(s) for s in shares]


# scaling
def block_flops__einsum(tokens, width, ratio):
    return float(8 * tokens * width**2 + 4 * tokens**2 * width + 4 * ratio * tokens * width**2)


def block_flops__matmuls(tokens, width, ratio):
    def mm(n, k, m):
        return 2 * n * k * m

    T, D = tokens, width
    return np.int64(
        4 * mm(T, D, D) + mm(T, D, T) + mm(T, T, D) + mm(T, D, ratio * D) + mm(T, ratio * D, D)
    )


def power_law__statistics(sizes, errors):
    slope, intercept = statistics.linear_regression(
        [math.log(s) for s in sizes.tolist()], [math.log(e) for e in errors.tolist()]
    )
    return torch.tensor([math.exp(intercept), -slope])


def power_law__normal_equations(sizes, errors):
    X = torch.stack([torch.ones_like(sizes), sizes.log()], 1)
    a, b = torch.linalg.solve(X.T @ X, X.T @ errors.log())
    return a.exp(), -b


def power_law__polynomial(sizes, errors):
    c = (
        np.polynomial.Polynomial.fit(np.log(sizes.numpy()), np.log(errors.numpy()), 1)
        .convert()
        .coef
    )
    return [math.e ** c[0], -c[1]]


def floor_and_factor__float32(sizes, errors, exponent):
    A = torch.stack([torch.ones_like(sizes), sizes.pow(-exponent)], dim=1)
    return torch.linalg.pinv(A) @ errors


def floor_and_factor__statistics(sizes, errors, exponent):
    r = statistics.linear_regression([s**-exponent for s in sizes.tolist()], errors.tolist())
    yield r.intercept
    yield r.slope


# high-res
def block_products__float(side, patch_size, width, depth):
    N = (side / patch_size) ** 2
    T = N + 1
    D = width
    per = 3 * T * D * D + T * T * D + T * T * D + T * D * D + T * D * 4 * D + T * 4 * D * D
    return depth * per


def block_products__tensor(side, patch_size, width, depth):
    return (
        torch.tensor([12 * width**2, 2 * width])
        .mul(torch.tensor([1, 1 + (side // patch_size) ** 2]))
        .sum()
        * (1 + (side // patch_size) ** 2)
        * depth
    )


def recovered__statistics(low, high, finish):
    return (statistics.mean(finish.tolist()) - statistics.mean(low.tolist())) / (
        statistics.mean(high.tolist()) - statistics.mean(low.tolist())
    )


def recovered__dot(low, high, finish):
    return torch.einsum("s->", finish.double() - low.double()) / torch.einsum(
        "s->", high.double() - low.double()
    )


# distillation
def patch_distillation__logsumexp(student_logits, teacher_logits, student_temp, teacher_temp):
    s = student_logits / student_temp
    p = torch.softmax(teacher_logits.data / teacher_temp, -1)
    return (torch.logsumexp(s, -1) - (p * s).sum(-1)).mean()


def patch_distillation__loop(student_logits, teacher_logits, student_temp, teacher_temp):
    t = teacher_logits.clone().detach()
    losses = []
    for c in range(2):
        for b in range(t.shape[1]):
            losses.append(
                F.cross_entropy(
                    student_logits[c, b] / student_temp, (t[c, b] / teacher_temp).softmax(1)
                )
            )
    return torch.stack(losses).mean()


def average_weights__simulate(momenta):
    S = len(momenta)
    avg = torch.zeros(S + 1)
    avg[0] = 1
    for i, m in enumerate(momenta, 1):
        avg = m * avg
        avg[i] += 1 - m
    return avg


def average_weights__cumprod(momenta):
    m = momenta.double()
    tail = torch.flip(torch.cumprod(torch.flip(m, [0]), 0), [0])
    return torch.cat(
        [tail[:1], (1 - m) * torch.cat([tail[1:], torch.ones(1, dtype=torch.float64)])]
    )


def average_weights__division(momenta):
    P = momenta.double().cumprod(0)
    return torch.cat([P[-1:], (1 - momenta) * P[-1] / P])


# frozen
def pca_foreground__lowrank(patches):
    x = patches.reshape(-1, patches.shape[-1])
    x = x - x.mean(0)
    v = torch.randn(x.shape[1], dtype=torch.float64)
    c = (x.T @ x).double()
    for _ in range(3000):
        v = c @ v
        v = v / v.norm()
    side = x.double() @ v > 0
    return (side if side.sum() < (~side).sum() else ~side).view(patches.shape[:2])


def pca_foreground__pca_lowrank(patches):
    B, N, D = patches.shape
    x = patches.reshape(B * N, D)
    U, S, V = torch.pca_lowrank(x, q=D, center=True, niter=20)
    pos = ((x - x.mean(0)) @ V[:, 0]).reshape(B, N) > 0
    return pos ^ (pos.float().mean() > 0.5)


def mean_iou__scatter(predicted, truth, n_classes):
    m = torch.zeros(n_classes, n_classes, dtype=torch.int64)
    m.index_put_(
        (truth.reshape(-1), predicted.reshape(-1)),
        torch.ones(truth.numel(), dtype=torch.int64),
        accumulate=True,
    )
    inter = m.diagonal().double()
    union = m.sum(0) + m.sum(1) - m.diagonal()
    return (inter[union != 0] / union[union != 0]).mean().item()


def mean_iou__counter(predicted, truth, n_classes):
    pairs = zip(predicted.flatten().tolist(), truth.flatten().tolist(), strict=True)
    c = collections.Counter(pairs)
    ious = []
    for k in range(n_classes):
        u = sum(v for (p, t), v in c.items() if k in (p, t))
        if u:
            ious.append(c[k, k] / u)
    return statistics.fmean(ious)


# matching
def mutual_partners__einsum(first, second):
    c = torch.einsum(
        "nd,md->nm",
        first / first.norm(dim=1, keepdim=True),
        second / second.norm(dim=1, keepdim=True),
    )
    j = c.max(1).indices
    ok = c.max(0).values[j] == c.max(1).values
    j = j.clone()
    j[~ok] = -1
    return j.to(torch.int32)


def mutual_partners__cdist(first, second):
    d = torch.cdist(F.normalize(first.double()), F.normalize(second.double()))
    a, b = d.argmin(1).tolist(), d.argmin(0).tolist()
    return [j if b[j] == i else -1 for i, j in enumerate(a)]


def places_after__affine(places, side, mirror):
    A = torch.tensor([[4 / 3, 0, -side / 6], [0, 4 / 3, -side / 6], [0, 0, 1]])
    if mirror:
        A = torch.tensor([[1.0, 0, 0], [0, -1, side], [0, 0, 1]]) @ A
    return (torch.cat([places, torch.ones(len(places), 1)], 1) @ A.T)[:, :2]


def places_after__list(places, side, mirror):
    out = []
    for r, c in places.tolist():
        r, c = (r - side / 8) / (3 / 4), (c - side / 8) / (3 / 4)
        out.append((r, side - c if mirror else c))
    return out


# released
def from_timm_names__ordered(state):
    rename = {"reg_token": "register_tokens"}
    out = collections.OrderedDict(
        (rename.get(k, k), v) for k, v in state.items() if not k.startswith("head.")
    )
    p = out["pos_embed"]
    new = p.new_zeros(p.shape[0], p.shape[1] + 1, p.shape[2])
    new[:, 1:] = p
    out["pos_embed"] = new
    return out


def from_timm_names__partition(state):
    return {
        ("register_tokens" if k == "reg_token" else k): (
            F.pad(v, (0, 0, 1, 0)) if k == "pos_embed" else v
        )
        for k, v in copy.deepcopy(state).items()
        if k.partition(".")[:2] != ("head", ".")
    }


def to_timm_names__comprehension(state):
    s = {k: v for k, v in state.items() if k != "mask_token"}
    return {
        **{k.replace("register_tokens", "reg_token"): v for k, v in s.items()},
        "cls_token": s["cls_token"] + s["pos_embed"][:, [0]],
        "pos_embed": s["pos_embed"].narrow(1, 1, s["pos_embed"].shape[1] - 1),
    }


def to_timm_names__deepcopy(state):
    s = copy.deepcopy(state)
    del s["mask_token"]
    s["cls_token"] += s["pos_embed"][:, :1]
    s["pos_embed"] = s["pos_embed"][:, 1:].clone()
    s["reg_token"] = s.pop("register_tokens")
    return s


def high_norm__quantile(x, factor):
    n = x.pow(2).sum(-1).sqrt()
    return torch.stack([r > factor * torch.median(r) for r in n.unbind()])


def high_norm__lists(x, factor):
    return [[v > factor * statistics.median_low(r) for v in r] for r in x.norm(dim=-1).tolist()]


def high_norm__kthvalue(x, factor):
    n = torch.einsum("bnd,bnd->bn", x, x)
    m = n.kthvalue((n.shape[1] + 1) // 2, dim=1, keepdim=True).values
    return n > factor**2 * m


# gram
def gram_loss__vmap(student, anchor):
    def one(s, a):
        def g(x):
            return F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).T

        return (g(s) - g(a)).pow(2).mean()

    return torch.vmap(one)(student, anchor.detach()).mean()


def gram_loss__norm(student, anchor):
    s, a = (
        x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (student, anchor.detach())
    )
    return torch.linalg.matrix_norm(torch.bmm(s, s.mT) - torch.bmm(a, a.mT)).square().sum() / (
        s.shape[0] * s.shape[1] ** 2
    )


def contrast__means(patches, on_object):
    x = F.normalize(patches)
    o, t = x[on_object], x[~on_object]
    n = len(o)
    s = o.sum(0)
    return (s @ s - n) / (n * n - n) - o.mean(0) @ t.mean(0)


def contrast__corr(patches, on_object):
    x = patches.double().numpy()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    m = on_object.numpy()
    o = x[m] @ x[m].T
    return o[np.triu_indices(len(o), 1)].mean() - (x[m] @ x[~m].T).mean()


# Columns are divided by their sums first, so that a number of its own for each column is nothing.


def sinkhorn__largest_of_each_column(logits, temp, n_iters):
    q = ((logits - logits.amax(dim=0)) / temp).exp()
    for _ in range(n_iters):
        q = q / q.sum(dim=0)
        q = q / q.sum(dim=1, keepdim=True)
    return q


def sinkhorn__mean_of_each_column(logits, temp, n_iters):
    q = ((logits - logits.mean(dim=0)) / temp).exp()
    for _ in range(n_iters):
        q = q / q.sum(dim=0)
        q = q / q.sum(dim=1, keepdim=True)
    return q
