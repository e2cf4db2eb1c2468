"""More wrong answers that people write, each with the name that it rightly gets.

Off by one, along another axis, with what was given once written down, right until an input is rare.
None as a name: any, as long as it is rejected.
"""

import copy
import itertools
import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import normalize


def st(t, p, a):
    for b in range(len(a)):
        t[:, b] = t[p[a[b]], b]
    return t


def lab(labels, n, seed, pick):
    g = torch.Generator().manual_seed(seed)
    out = []
    for k in labels.unique():
        i = (labels == k).nonzero().flatten()
        out.append(pick(i, n, g))
    return torch.cat(out)


def att(
    x,
    W,
    b,
    P,
    pb,
    h,
    scale=None,
    act=lambda s: s.softmax(-1),
    split=lambda t, h: t.unflatten(-1, (h, -1)).transpose(1, 2),
    order=(0, 1, 2),
    proj=None,
    mask=False,
):
    q, k, v = (F.linear(x, W, b).chunk(3, -1)[i] for i in order)
    q, k, v = (split(t, h) for t in (q, k, v))
    s = q @ k.mT * (q.shape[-1] ** (-0.5) if scale is None else scale(q))
    if mask:
        s = s + torch.full(s.shape[-2:], -torch.inf).triu(1)
    o = (act(s) @ v).transpose(1, 2).flatten(2)
    return F.linear(o, P, pb) if proj is None else proj(o, P, pb)


def rp(
    pe,
    n,
    h,
    wd,
    off=0.1,
    mode="bicubic",
    front=True,
    order="hw",
    swap=False,
    out=None,
    aa=False,
    perm=False,
    cls=None,
):
    g = pe[:, 1:].reshape(1, n, n, -1).permute(0, 3, 1, 2)
    if perm:
        g = pe[:, 1:].reshape(1, -1, n, n)
    if swap:
        h, wd = (wd, h)
    g = (
        F.interpolate(g, scale_factor=((h + off) / n, (wd + off) / n), mode=mode, antialias=aa)
        if True
        else g
    )
    c = pe[:, :1] if cls is None else cls(pe)
    return torch.cat([c, g.flatten(2).mT], 1)


def nce(
    q,
    k,
    n,
    t,
    norm=(1, 1, 1),
    div=lambda s, t: s / t,
    red=torch.mean,
    own=None,
    post=None,
    target=0,
):
    q, k, n = (normalize(x, dim=-1) if f else x for x, f in zip((q, k, n), norm, strict=True))
    own = (q * k).sum(-1, keepdim=True) if own is None else own(q, k)
    lo = div(torch.cat([own, q @ n.T], 1), t)
    if post:
        return post(lo)
    return red(-lo.log_softmax(1)[:, target])


def ntx(
    a, b, t, mask=True, norm=True, red=torch.mean, rows=None, fill=-torch.inf, own=None, div=None
):
    z = torch.cat([a, b])
    z = normalize(z, dim=-1) if norm else z
    s = z @ z.T
    m = len(z)
    s = s / t if div is None else div(s, t)
    if mask:
        s = s.masked_fill(torch.eye(m, dtype=torch.bool), fill)
    i = torch.arange(m)
    j = (i + m // 2) % m if own is None else own(i, m)
    each = -s.log_softmax(1)[i, j]
    return red(each if rows is None else rows(each))


def sw(lg, q, t, qs=None, axis=-1, div=None, red=None, log=None):
    lg = lg / t if div is None else div(lg, t)
    lp = lg.log_softmax(axis) if log is None else log(lg)
    q = q.flip(0) if qs is None else qs(q)
    e = -(q * lp).sum(-1)
    return e.mean() if red is None else red(e)


def by(p, z, d=True, n=None, red=torch.mean, f=None):
    z = z.detach() if d else z
    c = F.cosine_similarity(p, z, dim=-1)
    return red(2 - 2 * c) if f is None else f(p, z)


def bd(s, p, t, a, b, loss=by, tf=None, pairs=None, comb=lambda x, y: x + y):
    tf = tf or (lambda v: t(v).detach())
    return comb(loss(p(s(a)), tf(b)), loss(p(s(b)), tf(a)))


def sce(s, t, T, f=None, p=None, q=None, red=None, fac=None):
    p_of = (t / T).softmax(-1) if p is None else p(t, T)
    Q = (s / T).log_softmax(-1) if q is None else q(s, T)
    e = -(p_of * Q).sum(-1)
    fac = T * T if fac is None else fac(T)
    return fac * (e.mean() if red is None else red(e))


def dl(s, t, c, st, tt, p_of=None, Q=None, keep=None, div=None, det=True, red=None):
    p = ((t - c) / tt).softmax(-1) if p_of is None else p_of(t, c, st, tt)
    p = p.detach() if det else p
    lg = (s / st).log_softmax(-1) if Q is None else Q(s, c, st, tt)
    e = -torch.einsum("gbk,vbk->gvb", p, lg)
    e = e.mean(-1) if red is None else red(e)
    k = ~torch.eye(2, len(s), dtype=torch.bool) if keep is None else keep(len(s))
    return e[k].sum() / (k.sum() if div is None else div(len(s)))


def sl(s, p, T, red=None, div=None, loc=None, glo=None, q=None):
    lg = (s / T).log_softmax(-1) if q is None else q(s, T)
    V = len(s)
    c = -torch.einsum("gbk,vbk->gvb", p, lg)
    c = c.mean(-1) if red is None else red(c)
    n = 2 * V - 2 if div is None else div(V)
    return (
        (c[:, 2:].sum() if loc is None else loc(c)) / n,
        (c[0, 1] + c[1, 0] if glo is None else glo(c)) / n,
    )


def box(
    n,
    scale,
    size,
    g,
    area=None,
    ratio=None,
    rnd=torch.round,
    top=None,
    left=None,
    fit=None,
    cols=lambda t, lg, h, w: (t, lg, h, w),
    tries=20,
):
    def u(*s):
        return torch.rand(*s, generator=g)

    a = (
        scale[0] + (scale[1] - scale[0]) * u(n, tries) if area is None else area(u, n, tries, scale)
    ) * size**2
    r = ((2 * u(n, tries) - 1) * math.log(4 / 3)).exp() if ratio is None else ratio(u, n, tries)
    wd, h = (rnd((a * r).sqrt()), rnd((a / r).sqrt()))
    i = ((wd <= size) & (h <= size)).int().argmax(1, keepdim=True)
    wd, h = (x.gather(1, i)[:, 0].clamp(max=size) for x in (wd, h))

    def pl(s):
        return (u(n) * (size - s + 1)).floor()

    t = pl(h) if top is None else top(u, h, size, n)
    lg = pl(wd) if left is None else left(u, wd, size, n)
    return torch.stack(cols(t, lg, h, wd), 1).long()


def sk(lg, t, n, shift=lambda lg: lg - lg.max(), steps=None, extra=0, final=None):
    q = (shift(lg) / t).exp()
    for i in range(n + extra):
        q = q / q.sum(0, keepdim=True)
        if not (steps == "skip_last" and i == n - 1):
            q = q / q.sum(1, keepdim=True)
    return q if final is None else final(q)


def ema(
    t,
    s,
    m,
    fl=lambda a, b, m: m * a + (1 - m) * b,
    buf=None,
    only=lambda n: True,
    cnt=lambda a, b: b,
):
    with torch.no_grad():
        S_ = s.state_dict()
        for n, a in t.state_dict().items():
            if not only(n):
                continue
            b = S_[n]
            if a.is_floating_point():
                a.copy_((buf or fl)(a, b, m) if "running" in n else fl(a, b, m))
            else:
                a.copy_(cnt(a, b))


def de(v, m, den=lambda m, t: 1 - m**t, upd=lambda a, x, m: m * a + (1 - m) * x, a0=0.0):
    a, o = (a0, [])
    for t, x in enumerate(v, 1):
        a = upd(a, x, m)
        o.append(a / den(m, t))
    return torch.stack(o)


class DL(nn.Module):
    loss = staticmethod(dl)
    upd = staticmethod(lambda c, t, m: m * c + (1 - m) * t.detach().mean((0, 1))[None])
    temp = None
    hard = False
    grad = True
    when = "after"
    shape2 = False

    def __init__(self, k, st, m):
        super().__init__()
        self.st, self.m = (st, m)
        self.register_buffer("center", self.init(k))

    def init(self, k):
        return torch.zeros(1, k)

    def forward(self, s, t, tt):
        t = t.detach()
        lg = self.loss(s, t, self.center, self.st, tt)
        if self.training:
            self.center = self.upd(self.center, t, self.m)
        return lg


def cs(b, f, n, wd, warm=lambda b, wd: np.linspace(0, b, wd), rest=None):
    k = n - wd
    r = (
        f + (b - f) * (1 + np.cos(np.pi * np.arange(k) / k)) / 2
        if rest is None
        else rest(b, f, k, n, wd)
    )
    return np.concatenate([warm(b, wd), r])


def dg(m, plain):
    g = ([], [])
    for n, p in m.named_parameters():
        if p.requires_grad:
            g[bool(plain(n, p))].append(p)
    return g


def cg(ps, mx, f):
    for p in ps:
        if p.grad is not None:
            f(p, mx)


def inf(p, H=lambda p: torch.special.entr(p).sum(-1), f=lambda m, e: m - e.mean()):
    return f(H(p.mean(0)), H(p))


def knn(
    X_,
    y,
    x,
    k,
    t,
    sim=lambda a, b: normalize(a) @ normalize(b).T,
    wt=lambda s, t: (s / t).exp(),
    C=lambda y: int(y.max()) + 1,
    norm=None,
    acc=True,
    kk=lambda k: k,
):
    s = sim(x, X_)
    v, i = s.topk(kk(k), 1)
    V = torch.zeros(len(x), C(y))
    V = V.scatter_add(1, y[i], wt(v, t)) if acc else V.scatter(1, y[i], wt(v, t))
    return V if norm is None else norm(V)


def rm(f, y, sim=None, rank=None, keep=None, red=None, opt=">="):
    x = normalize(f, dim=-1)
    s = x @ x.T if sim is None else sim(f)
    n = len(s)
    aps = []
    for q in range(n):
        o = [j for j in range(n) if j != q or keep]
        ss, r = (s[q][o], y[o] == y[q])
        pr = [
            (r & (ss >= v)).sum() / (ss >= v).sum()
            if opt == ">="
            else ((r & (ss > v)).sum() + 1) / ((ss > v).sum() + 1)
            for v in ss[r]
        ]
        aps.append(torch.stack(pr))
    return torch.stack([a.mean() for a in aps]).mean() if red is None else red(aps)


def am(a, m, pre=lambda a: a / a.sum(-1, keepdim=True), cond=lambda c, v, m: c - v < m):
    s = pre(a)
    v, o = s.sort(-1, descending=True)
    c = v.cumsum(-1)
    return torch.zeros_like(a, dtype=torch.bool).scatter(-1, o, cond(c, v, m))


def rs(p, t, f=lambda b, e, p, t: b / e, empty=lambda p, t, e: e == 0, val=1.0):
    b, e = ((p & t).sum((1, 2)).float(), (p | t).sum((1, 2)).float())
    return torch.where(empty(p, t, e), torch.tensor(val), f(b, e, p, t))


def lm(
    x,
    k,
    deg=lambda s: (s > 0).sum(1),
    cent=lambda x: x - x.mean(0),
    join=lambda s, o: s[o[0], o] > 0,
    obj=lambda s, m: s[m].sum(0) > 0,
    kk=lambda k: k,
    order=lambda d: d.argsort(stable=True),
):
    x = cent(x)
    s = x @ x.T
    o = order(deg(s))[: kk(k)]
    return obj(s, o[join(s, o)])


def cl(
    q,
    K,
    lg,
    k,
    t,
    sim=lambda q, K: normalize(q) @ normalize(K).T,
    wt=lambda v, t: (v / t).softmax(1),
    post=lambda r: r,
    kk=lambda k: k,
):
    v, i = sim(q, K).topk(kk(k), 1)
    return post((wt(v, t)[..., None] * lg[i]).sum(1))


def pl(s, p, m, t, red=None, lq=None):
    lg = (s / t).log_softmax(-1) if lq is None else lq(s, t)
    e = -(p * lg).sum(-1)
    return ((e * m).sum(1) / m.sum(1).clamp(min=1)).mean() if red is None else red(e, m)


def ko(
    x,
    eps=1e-08,
    norm=lambda x: normalize(x, dim=-1),
    pick=lambda s: s.min(1).values,
    f=lambda d: -d.log().mean(),
    fill=1000000000.0,
):
    if len(x) < 2:
        return 0 * x.sum()
    x = norm(x)
    s = (x[:, None] - x).square().sum(-1) + torch.diag(torch.full((len(x),), fill))
    return f((pick(s) + eps**2).sqrt())


def own(lg):
    return torch.arange(len(lg)).repeat_interleave(torch.tensor(lg))


def sb(n, p, s):
    return 4 * n / (p if s == "fsdp" else 1)


def cc(s, n=None, lab=None):
    n = len(s) if n is None else n(s)
    L_ = s | torch.eye(len(s)).bool()
    x = torch.arange(len(s))
    for _ in range(n):
        x = torch.where(L_, x[None], 10**6).amin(1)
    return x if lab is None else lab(x, s)


def ps(f, t, o=lambda m: m.triu(1), out=lambda b, a, c: (b / a, b / c)):
    a, c = (o(f[:, None] == f), o(t[:, None] == t))
    return out((a & c).sum(), a.sum(), c.sum())


def es(
    s,
    n,
    left=lambda s, sh, r: sh.index_add(
        0, s.argsort(descending=True, stable=True)[:r], torch.ones(r, dtype=s.dtype)
    ),
    cap=True,
    tot=True,
):
    n = min(n, int(s.sum())) if tot else n
    k = 0
    while k < int(s.max()) and s.clamp(max=k + 1).sum() <= n:
        k += 1
    sh = s.clamp(max=k)
    return left(s, sh, n - int(sh.sum()))


def pw(
    s,
    e,
    x=lambda s: s.double().log(),
    y=lambda e: e.double().log(),
    out=lambda a, b: (a.exp(), -b),
    wd=None,
    sel=slice(None),
):
    X_, Y_ = (x(s)[sel], y(e)[sel])
    wd = torch.ones_like(X_) if wd is None else wd(s, e)
    mx, my = ((wd * X_).sum() / wd.sum(), (wd * Y_).sum() / wd.sum())
    b = (wd * (X_ - mx) * (Y_ - my)).sum() / (wd * (X_ - mx) ** 2).sum()
    return out(my - b * mx, b)


def ff(
    s,
    e,
    p,
    x=lambda s, p: s.double() ** (-p),
    wd=None,
    out=lambda a, b: (a, b),
    y=lambda e: e.double(),
):
    X_, Y_ = (x(s, p), y(e))
    wd = torch.ones_like(X_) if wd is None else wd(s, e)
    mx, my = ((wd * X_).sum() / wd.sum(), (wd * Y_).sum() / wd.sum())
    b = (wd * (X_ - mx) * (Y_ - my)).sum() / (wd * (X_ - mx) ** 2).sum()
    return out(my - b * mx, b)


def bp(T, D, d):
    return d * (12 * T * D * D + 2 * T * T * D)


def pd(s, t, st, tt, p=None, q=None, red=None, d=True):
    p_of = (t / tt).softmax(-1) if p is None else p(t, st, tt)
    p_of = p_of.detach() if d else p_of
    lg = (s / st).log_softmax(-1) if q is None else q(s, st, tt)
    e = -(p_of * lg).sum(-1)
    return e.mean() if red is None else red(e)


def aw(m, f=lambda m: m, own=lambda m: 1 - m, post=lambda wd: wd):
    m = f(m.double())
    wd = torch.ones(1, dtype=torch.float64)
    for x in m:
        wd = torch.cat([x * wd, own(x)[None]])
    return post(wd)


def pf(
    x,
    cent=lambda z: z - z.mean(0),
    comp=0,
    rule=lambda s: s if s.sum() * 2 <= s.numel() else ~s,
    thr=lambda p: p > 0,
):
    z = cent(x.flatten(0, 1).double())
    p = z @ torch.linalg.svd(z, full_matrices=False).Vh[comp]
    return rule(thr(p).view(x.shape[:2]))


def mi(
    p,
    t,
    n,
    f=lambda b, a, c: b / (a + c - b),
    keep=lambda a, c: a + c > 0,
    red=lambda s: s.mean(),
    rng=lambda n: range(n),
):
    b = torch.tensor([float(((p == k) & (t == k)).sum()) for k in rng(n)])
    a = torch.tensor([float((p == k).sum()) for k in rng(n)])
    c = torch.tensor([float((t == k).sum()) for k in rng(n)])
    s = f(b, a, c)
    return red(s[keep(a, c)])


def mp(
    a, b, sim=lambda a, b: normalize(a) @ normalize(b).T, mark=lambda ok, j: torch.where(ok, j, -1)
):
    s = sim(a, b)
    j = s.argmax(1)
    ok = s.argmax(0)[j] == torch.arange(len(a))
    return mark(ok, j)


def pa(p, s, m, c=1 / 8, z=4 / 3, mir=lambda x, s: s - x, ax=1, r=lambda v: v):
    q = (p - r(c * s)) * z
    q = q.clone()
    if m:
        q[:, ax] = mir(q[:, ax], s)
    return q


def ft(
    s,
    ren=lambda k: k.replace("reg_token", "register_tokens"),
    drop=lambda k: k.startswith("head."),
    pos=lambda v: torch.cat([torch.zeros_like(v[:, :1]), v], 1),
    val=lambda k, v: v,
):
    return {ren(k): pos(v) if k == "pos_embed" else val(k, v) for k, v in s.items() if not drop(k)}


def ft_in_place(s):
    s["pos_embed"] = F.pad(s["pos_embed"], (0, 0, 1, 0))
    return {
        k.replace("reg_token", "register_tokens"): v
        for k, v in s.items()
        if not k.startswith("head.")
    }


def tt_(
    s,
    ren=lambda k: k.replace("register_tokens", "reg_token"),
    cls=lambda s: s["cls_token"] + s["pos_embed"][:, :1],
    pos=lambda v: v[:, 1:],
    drop=lambda k: k == "mask_token",
    val=lambda v: v,
):
    return {
        ren(k): cls(s) if k == "cls_token" else pos(v) if k == "pos_embed" else val(v)
        for k, v in s.items()
        if not drop(k)
    }


def tt_inplace(s):
    s["cls_token"] = s["cls_token"] + s["pos_embed"][:, :1]
    s["pos_embed"] = s["pos_embed"][:, 1:]
    return {k.replace("register_tokens", "reg_token"): v for k, v in s.items() if k != "mask_token"}


def hn(
    x,
    f,
    n=lambda x: x.norm(dim=-1),
    m=lambda n: n.median(1, keepdim=True).values,
    cmp=lambda n, f, m: n > f * m,
):
    return cmp(n(x), f, m(n(x)))


def gl(
    s,
    a,
    g=lambda x: normalize(x, dim=-1) @ normalize(x, dim=-1).mT,
    f=lambda d: d.square().mean(),
    d=True,
):
    return f(g(s) - g(a.detach() if d else a))


def ct(x, o, sim=lambda x: normalize(x) @ normalize(x).T, a=None, b=None, f=lambda p, q: p - q):
    c = sim(x)
    k = c[o][:, o]
    off = ~torch.eye(len(k)).bool()
    return f(k[off].mean() if a is None else a(k), c[o][:, ~o].mean() if b is None else b(c, o))


# exercise:what is wrong -> the answer, and its name
FRESH = {
    "rotation_batch:wrong_dims": (
        lambda im: (
            torch.cat(
                [im.rot90(k, (1, 2)) if k % 2 == 0 else im.rot90(k, (2, 3)) for k in range(4)]
            ),
            torch.arange(4).repeat_interleave(len(im)),
        ),
        "places",
    ),
    "shuffle_tiles:batch_order": (
        lambda t, p, a: t[p[a]].transpose(0, 1)[:, :, 0] if False else t[p[a].T, 0].expand_as(t),
        "right-when-one",
    ),
    "shuffle_tiles:squeezed": (
        lambda t, p, a: torch.stack([t[p[x].tolist(), b] for b, x in enumerate(a)], 1).squeeze(),
        "shape",
    ),
    "labelled:block": (
        lambda y, n, s: lab(
            y, n, s, lambda i, n, g: i.roll(-int(torch.randint(len(i), (1,), generator=g)))[:n]
        ),
        "block",
    ),
    "labelled:never_last": (
        lambda y, n, s: lab(
            y, n, s, lambda i, n, g: i[torch.randperm(len(i) - 1, generator=g)[:n]]
        ),
        "number",
    ),
    "labelled:sorted_then_first": (
        lambda y, n, s: lab(
            y, n, s, lambda i, n, g: i[torch.randperm(len(i), generator=g)].sort().values[:n]
        ),
        "not-random",
    ),
    "labelled:labels_not_indices": (
        lambda y, n, s: y[lab(y, n, s, lambda i, n, g: i[torch.randperm(len(i), generator=g)[:n]])],
        "labels",
    ),
    "labelled:first_half": (
        lambda y, n, s: lab(
            y, n, s, lambda i, n, g: i[torch.randperm(max(n, len(i) // 2), generator=g)[:n]]
        ),
        "not-fair",
    ),
    "to_patches:no_permute": (
        lambda x, p: x.unfold(2, p, p).unfold(3, p, p).reshape(len(x), -1, x.shape[1] * p * p),
        "places",
    ),
    "attention:causal": (partial(att, mask=True), "causal"),
    "attention:weight_not_transposed": (
        partial(att, proj=lambda o, P, pb: o @ P + pb),
        "weight-not-transposed",
    ),
    "attention:sigmoid": (partial(att, act=torch.sigmoid), "weights-without-sum"),
    "resize_positions:channels_not_last": (partial(rp, perm=True), "reshaped"),
    "info_nce:query_not_normalised": (partial(nce, norm=(0, 1, 1)), "depends-on-length"),
    "nt_xent:diagonal_zero": (partial(ntx, fill=0.0), "case"),
    "nt_xent:masks_after_temperature_wrong": (
        partial(ntx, div=lambda s, t: s.masked_fill(torch.eye(len(s)).bool(), -1) / t, mask=False),
        "case",
    ),
    "swapped:batch_flipped": (partial(sw, qs=lambda q: q.flip(1)), "repeated"),
    "byol_loss:abs": (
        partial(by, f=lambda p, z: (normalize(p) - normalize(z)).abs().sum(1).mean()),
        "not-squared",
    ),
    "both_directions:difference": (partial(bd, comb=lambda x, y: x - y), "subtracted"),
    "trained_parameters:names": (
        lambda s, p, t: [n for n, _ in [*s.named_parameters(), *p.named_parameters()]],
        "missing",
    ),
    "soft_cross_entropy:hard_teacher": (
        partial(sce, p=lambda t, T: F.one_hot(t.argmax(-1), t.shape[-1]).float()),
        "length-lost",
    ),
    "dino_loss:hard_temps": (
        partial(
            dl,
            p_of=lambda t, c, st, tt: ((t - c) / 0.04).softmax(-1),
            Q=lambda s, c, st, tt: (s / 0.1).log_softmax(-1),
        ),
        "ignores-student_temp",
    ),
    "crop_pairs:combinations": (
        lambda g, lg: list(itertools.combinations(range(g + lg), 2)),
        "missing-and-surplus",
    ),
    "split_loss:batch_summed": (partial(sl, red=lambda c: c.sum(-1)), "factor"),
    "split_loss:hard_temp": (
        partial(sl, q=lambda s, T: (s / 0.1).log_softmax(-1)),
        "ignores-student_temp",
    ),
    "split_loss:multiplied": (
        partial(sl, q=lambda s, T: (s * T).log_softmax(-1)),
        "temperature-multiplied",
    ),
    "draw_boxes:upper_bound_only": (
        partial(box, area=lambda u, n, k, s: s[1] * u(n, k)),
        "area-range",
    ),
    "draw_boxes:ceil": (partial(box, rnd=torch.ceil), "sides-rounded-up"),
    "draw_boxes:ignores_generator": (
        lambda n, s, z, g: box(n, s, z, torch.Generator().manual_seed(0)),
        "ignores-generator",
    ),
    "draw_boxes:fixed_size": (lambda n, s, z, g: box(n, s, 256, g), "size-unused"),
    "draw_boxes:fractions": (lambda n, s, z, g: box(n, s, z, g) / z, "shares"),
    "draw_boxes:squeezed": (lambda n, s, z, g: box(n, s, z, g).squeeze(), "shape"),
    "teacher_probabilities:naive": (
        lambda t, c, k: ((t - c) / k).exp() / ((t - c) / k).exp().sum(-1, keepdim=True),
        "not-finite",
    ),
    "center_update:logits_in_place": (
        lambda c, t, m: c * m + t.mul_(1 - m).mean((0, 1)),
        "changes-input",
    ),
    "center_update:hard_momentum": (
        lambda c, t, m: 0.9 * c + 0.1 * t.mean((0, 1)),
        "ignores-momentum",
    ),
    "sinkhorn:row_max": (
        partial(sk, shift=lambda lg: lg - lg.max(1, keepdim=True).values),
        "rows-shifted",
    ),
    "entropy:eps_large": (lambda p: -(p * (p + 0.01).log()).sum(-1), "negative"),
    "entropy:nan_row_zero": (lambda p: (-(p * p.log()).sum(-1)).nan_to_num(0), "one-end"),
    "make_teacher:eval_student": (
        lambda s: copy.deepcopy(s.eval()).requires_grad_(False),
        "student-in-evaluation",
    ),
    "make_teacher:hard_architecture": (
        lambda s: (lambda t: (t.load_state_dict(s.state_dict()), t.requires_grad_(False))[1])(
            nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        ),
        "error",
    ),
    "make_teacher:state_dict": (lambda s: copy.deepcopy(s.state_dict()), "not-a-module"),
    "ema_update:not_convex": (partial(ema, fl=lambda a, b, m: m * a + b), "case"),
    "ema_update:counter_zero": (partial(ema, cnt=lambda a, b: 0 * b), "counter-wrong"),
    "ema_update:counter_summed": (partial(ema, cnt=lambda a, b: a + b), "counter-wrong"),
    "ema_update:assigns_parameters": (
        lambda t, s, m: (
            [
                setattr(t[i], "weight", nn.Parameter(m * t[i].weight + (1 - m) * s[i].weight))
                for i in (0, 1, 3)
            ]
            and None
        ),
        "trainable",
    ),
    "ema_update:student_eval": (
        lambda t, s, m: ema(t, s.requires_grad_(False), m),
        "student-frozen",
    ),
    "half_life:approximation": (lambda m: math.log(2) / (1 - m), "approximation"),
    "debiased_ema:t_minus_one": (
        partial(de, den=lambda m, t: 1 - m ** (t - 1) if t > 1 else 1),
        "right-when",
    ),
    "momentum_at:sine_quarter": (
        lambda s, n, a: a + (1 - a) * math.sin(math.pi * s / 2 / n),
        "right-when",
    ),
    "momentum_at:hard_start": (
        lambda s, n, a: 1 - 0.004 * (1 + math.cos(math.pi * s / n)) / 2,
        "ignores-start",
    ),
    "momentum_at:sign": (
        lambda s, n, a: 1 + (1 - a) * (1 + math.cos(math.pi * s / n)) / 2,
        "above-one",
    ),
    "count_pairs:hard_two": (lambda g, lg: (2 * (g + lg) - 2, 2 * lg), "case"),
    "DINOLoss:no_student_gradient": (
        type("no_student_gradient", (DL,), dict(loss=staticmethod(lambda *a: dl(*a).detach()))),
        "no-gradient",
    ),
    "DINOLoss:first_view_gradient": (
        type(
            "first_view_gradient",
            (DL,),
            dict(loss=staticmethod(lambda s, *a: dl(torch.cat([s[:1], s[1:].detach()]), *a))),
        ),
        "gradient",
    ),
    "DINOLoss:hard_temps": (
        type(
            "hard_temps",
            (DL,),
            dict(loss=staticmethod(lambda s, t, c, st, tt: dl(s, t, c, 0.1, 0.04))),
        ),
        "case",
    ),
    "DINOLoss:six_prototypes": (
        type("six", (DL,), dict(init=lambda self, k: torch.zeros(1, 6))),
        "no-center",
    ),
    "cosine_schedule:quarter": (
        partial(cs, rest=lambda b, f, k, n, wd: f + (b - f) * np.cos(np.pi / 2 * np.arange(k) / k)),
        "some-entries",
    ),
    "decay_groups:by_names": (
        partial(dg, plain=lambda n, p: any(k in n for k in ("bias", "norm", "gamma"))),
        "by-the-name-norm",
    ),
    "decay_groups:tokens_too": (
        partial(dg, plain=lambda n, p: p.ndim == 1 or "token" in n or "pos" in n),
        "embeddings-not-decayed",
    ),
    "decay_groups:norm_in_name": (
        partial(dg, plain=lambda n, p: "norm" in n or n.endswith("bias") or "scale" in n),
        "by-the-name-norm",
    ),
    "decay_groups:modules": (
        partial(
            dg,
            plain=lambda n, p: (
                n.split(".")[0] in ("norm", "batch_norm", "scale") or n.endswith("bias")
            ),
        ),
        "scale-decayed",
    ),
    "clip_gradients:hard_three": (
        partial(cg, f=lambda p, mx: p.grad.mul_(min(1, 3 / max(1e-09, float(p.grad.norm()))))),
        "case",
    ),
    "clip_gradients:zeroed": (
        partial(cg, f=lambda p, mx: p.grad.zero_() if p.grad.norm() > mx else None),
        "gradient-lost",
    ),
    "clip_gradients:none_becomes_zero": (
        lambda ps, mx: [
            setattr(p, "grad", torch.zeros_like(p))
            if p.grad is None
            else p.grad.div_((p.grad.norm() / mx).clamp(min=1))
            for p in ps
        ],
        "gradient-made",
    ),
    "information:bits": (partial(inf, f=lambda m, e: (m - e.mean()) / math.log(2)), "factor"),
    "information:log_k": (partial(inf, f=lambda m, e: math.log(4) - e.mean()), "negative"),
    "knn_classify:unique_classes": (
        partial(knn, C=lambda y: len(y.unique()) + int(len(y.unique()) < int(y.max()) + 1)),
        "error",
    ),
    "knn_classify:overwritten": (partial(knn, acc=False), "right-when"),
    "knn_classify:k_plus_one": (partial(knn, kk=lambda k: k + 1), "neighbours-miscounted"),
    "knn_classify:column_normalised": (
        partial(knn, norm=lambda V: V / V.sum(0).clamp_min(1e-09)),
        "mixed",
    ),
    "knn_classify:positive_only": (
        partial(knn, wt=lambda s, t: (s.clamp(min=0) / t).exp()),
        "right-when",
    ),
    "retrieval_map:optimistic_ties": (partial(rm, opt=">"), "case"),
    "retrieval_map:per_query": (
        partial(rm, red=lambda a: torch.stack([x.mean() for x in a])),
        "shape",
    ),
    "attention_mask:at_most": (partial(am, cond=lambda c, v, m: c <= m), "one-short"),
    "attention_mask:less_equal_before": (
        partial(am, cond=lambda c, v, m: c - v <= m),
        "one-too-many",
    ),
    "attention_mask:global_sum": (partial(am, pre=lambda a: a / a.sum()), "right-when-one"),
    "attention_mask:over_heads": (
        partial(am, pre=lambda a: a / a.sum(0, keepdim=True)),
        "ignores-mass",
    ),
    "attention_mask:max_divided": (
        partial(am, pre=lambda a: a / a.amax(-1, keepdim=True)),
        "ignores-mass",
    ),
    "region_similarity:true_empty_is_one": (
        partial(rs, empty=lambda p, t, e: ~t.any(-1).any(-1)),
        "one-empty-is-one",
    ),
    "region_similarity:eps": (partial(rs, f=lambda b, e, p, t: (b + 1) / (e + 1)), "some-entries"),
    "region_similarity:whole_batch_empty": (
        partial(rs, empty=lambda p, t, e: (e.sum() == 0).expand_as(e)),
        "empty-is-nan",
    ),
    "lost_mask:normalised": (
        partial(lm, cent=lambda x: normalize(x - x.mean(0), dim=1)),
        "right-when",
    ),
    "lost_mask:negative": (partial(lm, obj=lambda s, m: s[m].sum(0) < 0), "inverted"),
    "carry_labels:k_plus_one": (partial(cl, kk=lambda k: k + 1), "neighbours-miscounted"),
    "patch_loss:clamp_missing": (
        partial(pl, red=lambda e, m: sum(x[k].mean() for x, k in zip(e, m, strict=True)) / len(m)),
        "not-finite",
    ),
    "patch_loss:nan_if_all_empty": (
        partial(
            pl, red=lambda e, m: ((e * m).sum(1) / m.sum(1).clamp(min=1)).mean() / (m.any() / 1.0)
        ),
        "not-finite",
    ),
    "patch_loss:fully_masked_dropped": (
        partial(pl, red=lambda e, m: ((e * m).sum(1) / m.sum(1).clamp(min=1) * ~m.all(1)).mean()),
        "case",
    ),
    "koleo:second_nearest": (
        partial(
            ko,
            pick=lambda s: (
                s.topk(min(2, len(s)), 1, largest=False).values[:, -1]
                if len(s) > 2
                else s.min(1).values
            ),
        ),
        "case",
    ),
    "layer_rates:multiplier_added": (
        lambda d, q, p: [p + q ** (d + 1), *(q ** (d - i) for i in range(d)), 1.0],
        "one-end",
    ),
    "packed_mask:by_size": (
        lambda lg: (lambda o: o[:, None] == o)(
            torch.tensor(lg).repeat_interleave(torch.tensor(lg))
        ),
        "too-many",
    ),
    "state_bytes:bits": (
        lambda n, p, s: [32 * x * sb(n, p, s) / 4 for x in (1, 1, 1, 2)],
        "factor",
    ),
    "norm_of_parts:l1": (lambda ps: sum(p.abs().sum() for p in ps), "other-norm"),
    "components:log_rounds": (partial(cc, n=lambda s: int(math.log2(len(s)))), "stopped-early"),
    "pair_scores:f1": (partial(ps, out=lambda b, a, c: 2 * b / (a + c)), "not-two"),
    "pair_scores:jaccard": (partial(ps, out=lambda b, a, c: (b / (a + c - b),) * 2), "constant"),
    "pair_scores:counts": (partial(ps, out=lambda b, a, c: (a, c)), "above-one"),
    "pair_scores:sorted_neighbours": (lambda f, t: ps(f.sort().values, t.sort().values), None),
    "even_shares:left_to_first": (
        partial(es, left=lambda s, sh, r: sh + (torch.arange(len(s)) < r)),
        "right-when",
    ),
    "even_shares:sorted": (lambda s, n: es(s, n).sort().values, "places"),
    "block_flops:mlp_eight": (
        lambda T, D, r: 2 * (4 * T * D * D + 8 * T * D * D + 2 * T * T * D),
        "ignores-ratio",
    ),
    "block_flops:parts": (
        lambda T, D, r: (8 * T * D * D, 4 * T * T * D, 4 * r * T * D * D),
        "shape",
    ),
    "power_law:log10_factor": (
        partial(pw, x=lambda s: s.double().log10(), y=lambda e: e.double().log10()),
        "one-of-several",
    ),
    "floor_and_factor:floor_clamped": (
        partial(ff, out=lambda a, b: (a.clamp(min=0), b)),
        "cut-below",
    ),
    "block_products:flops": (lambda s, p, D, d: 2 * bp(1 + (s // p) ** 2, D, d), "factor"),
    "recovered:median": (lambda a, b, c: (c - a).median() / (b - a).median(), "right-when-one"),
    "patch_distillation:hard_temps": (
        partial(
            pd,
            p=lambda t, st, tt: (t / 0.2).softmax(-1),
            q=lambda s, st, tt: (s / 0.5).log_softmax(-1),
        ),
        "ignores-student_temp",
    ),
    "patch_distillation:T_squared": (partial(pd, red=lambda e: 0.25 * e.mean()), "factor"),
    "average_weights:mean_momentum": (
        partial(aw, f=lambda m: m.mean().expand_as(m)),
        "right-when-one",
    ),
    "pca_foreground:second_component": (partial(pf, comp=1), None),
    "pca_foreground:last_component": (partial(pf, comp=-1), "right-when-one"),
    "pca_foreground:rule_per_image": (
        partial(pf, rule=lambda s: torch.stack([r if r.sum() * 2 <= len(r) else ~r for r in s])),
        "case",
    ),
    "pca_foreground:first_image_rule": (
        partial(pf, rule=lambda s: s if s[0].sum() * 2 <= len(s[0]) else ~s),
        "inverted",
    ),
    "mean_iou:without_background": (partial(mi, rng=lambda n: range(1, n)), "background-left-out"),
    "mean_iou:divided_by_n": (partial(mi, red=lambda s: s.sum() / 4), "case"),
    "mean_iou:max_class": (lambda p, t, n: mi(p, t, int(t.max()) + 1), "case"),
    "mean_iou:n_predicted": (lambda p, t, n: mi(p, t, int(p.max()) + 1), "case"),
    "mutual_partners:distance": (
        partial(mp, sim=lambda a, b: -torch.cdist(a, b)),
        "depends-on-length",
    ),
    "mutual_partners:one_unit": (
        partial(mp, sim=lambda a, b: normalize(a) @ b.T),
        "right-when-one",
    ),
    "mutual_partners:mask": (partial(mp, mark=lambda ok, j: ok), "true-and-false"),
    "mutual_partners:dims_norm": (
        partial(mp, sim=lambda a, b: normalize(a, dim=0) @ normalize(b, dim=0).T),
        "right-when-one",
    ),
    "mutual_partners:second": (
        lambda a, b: (normalize(a) @ normalize(b).T).topk(2, 1).indices[:, 1],
        "repeated",
    ),
    "places_after:pixel_mirror": (partial(pa, mir=lambda x, s: s - 1 - x), "mirrored-by-index"),
    "places_after:floor_corner": (partial(pa, r=lambda v: v // 1), "corner-rounded"),
    "places_after:rounded_corner": (partial(pa, r=lambda v: round(v)), "error-without"),
    "places_after:clamped": (lambda p, s, m: pa(p, s, m).clamp(0, s), "cut-off"),
    "places_after:inside_only": (
        lambda p, s, m: (lambda q: q[((q >= 0) & (q <= s)).all(1)])(pa(p, s, m)),
        "shape",
    ),
    "places_after:outside_dropped_nan": (
        lambda p, s, m: (
            lambda q: torch.where(((q >= 0) & (q <= s)).all(1, keepdim=True), q, torch.nan)
        )(pa(p, s, m)),
        "not-finite",
    ),
    "from_timm_names:float_zeros": (
        partial(ft, pos=lambda v: torch.cat([torch.zeros(1, 1, v.shape[-1]), v], 1)),
        "dtype",
    ),
    "from_timm_names:all_float": (partial(ft, val=lambda k, v: v.float()), "dtype"),
    "from_timm_names:head_prefix": (partial(ft, drop=lambda k: k.startswith("head")), "shape"),
    "from_timm_names:ones": (
        partial(ft, pos=lambda v: torch.cat([torch.ones_like(v[:, :1]), v], 1)),
        "case",
    ),
    "from_timm_names:changes_state": (ft_in_place, "changes-input"),
    "to_timm_names:subtracted": (
        partial(tt_, cls=lambda s: s["cls_token"] - s["pos_embed"][:, :1]),
        "case",
    ),
    "to_timm_names:float": (partial(tt_, val=lambda v: v.float()), "dtype"),
    "to_timm_names:double_sum": (
        partial(tt_, cls=lambda s: s["cls_token"].float() + s["pos_embed"][:, :1].float()),
        "dtype",
    ),
    "to_timm_names:values_replaced": (tt_inplace, "changes-input"),
    "high_norm:upper_median": (
        partial(hn, m=lambda n: n.sort(1).values[:, n.shape[1] // 2, None]),
        "other-median",
    ),
    "high_norm:numpy_median": (
        partial(hn, m=lambda n: n.quantile(0.5, dim=1, keepdim=True)),
        "other-median",
    ),
    "high_norm:plus": (partial(hn, cmp=lambda n, f, m: n > f + m), "right-when-one"),
    "high_norm:sum_of_squares": (partial(hn, n=lambda x: x.square().sum(-1)), "squared"),
    "high_norm:fixed_factor": (partial(hn, cmp=lambda n, f, m: n > 3 * m), "ignores-factor"),
    "high_norm:top": (
        partial(hn, cmp=lambda n, f, m: n == n.max(1, keepdim=True).values),
        "ignores-factor",
    ),
    "high_norm:both_sides": (
        partial(hn, cmp=lambda n, f, m: (n > f * m) | (n < m / f)),
        "right-when-one",
    ),
    "gram_loss:off_diagonal": (
        partial(gl, f=lambda d: d.square().sum() / (d.shape[0] * d.shape[1] * (d.shape[1] - 1))),
        "factor",
    ),
    "gram_loss:cross": (
        lambda s, a: (1 - normalize(s, dim=-1) @ normalize(a.detach(), dim=-1).mT).square().mean(),
        None,
    ),
    "contrast:n_squared": (
        partial(ct, a=lambda k: (k.sum() - k.trace()) / k.numel()),
        "diagonal-as-zero",
    ),
    "contrast:max": (partial(ct, b=lambda c, o: c[o][:, ~o].max()), None),
    "contrast:distances": (
        partial(ct, sim=lambda x: torch.cdist(normalize(x), normalize(x))),
        None,
    ),
}
