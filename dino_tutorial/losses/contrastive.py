"""Contrastive losses: pick the other view of the same image out of a line-up."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from dino_tutorial.errors import UserError
from dino_tutorial.losses.precision import at_least_float32
from dino_tutorial.options import number, takes, tensor
from dino_tutorial.parallel import gather_over_processes, rank_and_world


@takes(negatives=tensor("K>=0 D", "float", none=True), temperature=number(0, 1e6, above=True))
def info_nce(
    query: Float[Tensor, "B D"],
    key: Float[Tensor, "B D"],
    negatives: Float[Tensor, "K D"] | None = None,
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Cross-entropy of each query's own key among all candidates, by cosine similarity.

    ``−log [exp(q·k⁺/τ) / Σ_k exp(q·k/τ)]`` for unit vectors, summed over the own key k⁺ and the
    negatives. Without ``negatives`` the other keys of the batch, of all processes, serve.

    Args:
        query: (B, D), any length; normalised here, like the others.
        key: (B, D), row by row the positive of the query.
        negatives: (K, D), shared by all queries (MoCo's queue); no positive may be in it.
        temperature: τ.

    Returns:
        Scalar, the mean over the batch. With n candidates, similarities that tell nothing give
        ln n: n = K + 1 with negatives, the number of keys without.

    Raises:
        UserError: if the shapes do not fit together, or τ is not positive.

    Source: van den Oord et al. 2018, equation 4; He et al. 2020 (MoCo), equation 1.
    """
    with torch.autocast(query.device.type, enabled=False):
        query = normalize(at_least_float32(query), dim=1)
        key = normalize(at_least_float32(key).to(query.dtype), dim=1)
        if negatives is None:
            candidates = gather_over_processes(key)
            own = rank_and_world()[0] * len(key) + torch.arange(len(key), device=key.device)
            return cross_entropy(query @ candidates.T / temperature, own)
        positive = (query * key).sum(dim=1, keepdim=True)  # (B, 1)
        others = query @ normalize(at_least_float32(negatives).to(query.dtype), dim=1).T  # (B, K)
        first = torch.zeros(len(query), dtype=torch.int64, device=query.device)
        return cross_entropy(torch.cat([positive, others], dim=1) / temperature, first)


@takes(temperature=number(0, 1e6, above=True))
def nt_xent(projections: Float[Tensor, "2 B D"], temperature: float = 0.1) -> Float[Tensor, ""]:
    """SimCLR's loss, the normalised temperature-scaled cross-entropy.

    Each of the 2n views of a batch of n images is in turn the query; the other view of its image
    is the positive, the 2n − 2 views of other images are the negatives. With several processes n
    counts all their images, and gradients flow through the negatives too.

    Args:
        projections: (2, B, D), the two views of this process's images, any length.
        temperature: τ.

    Returns:
        Scalar, the mean over this process's 2B views. Similarities that tell nothing give
        ln(2n − 1).

    Raises:
        UserError: if there are not two views, only one image, or τ is not positive.

    Source: Chen et al. 2020 (SimCLR), equation 1 and algorithm 1.
    """
    batch = projections.shape[1]
    with torch.autocast(projections.device.type, enabled=False):
        views = normalize(at_least_float32(projections), dim=-1)
        everyone = gather_over_processes(views.transpose(0, 1)).transpose(0, 1)  # (2, n, D)
        n = everyone.shape[1]
        if n < 2:
            raise UserError("nt_xent needs at least two images: one alone has no negatives")
        own = rank_and_world()[0] * batch + torch.arange(batch, device=views.device)
        itself, positive = torch.cat([own, n + own]), torch.cat([n + own, own])
        similarity = views.flatten(0, 1) @ everyone.flatten(0, 1).T / temperature  # (2B, 2n)
        return cross_entropy(similarity.scatter(1, itself[:, None], -torch.inf), positive)
