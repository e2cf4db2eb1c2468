"""What an encoder makes of a few images, ready to draw: attention, components, neighbours, crops.

Images are uint8 (n, 3, H, W) on the CPU, as data sets give them; so is what comes back.
"""

import torch
from torch import Tensor, nn

from dino_tutorial.datasets.subset import Subset
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import extract_features, nearest_neighbours, normalize, patch_pca
from dino_tutorial.models import VisionTransformer
from dino_tutorial.views import Augment


@torch.inference_mode()
def attention_maps(encoder: VisionTransformer, images: Tensor) -> Tensor:
    """The last layer's attention of the CLS token over the patches: (n, heads, h, w)."""
    height, width = _grid(encoder, images)
    attention = encoder.get_attention(normalize(images))[:, :, 0, -height * width :]
    return attention.unflatten(-1, (height, width))


@torch.inference_mode()
def patch_components(encoder: VisionTransformer, images: Tensor) -> Tensor:
    """Three principal components of all images' patch tokens together: (n, h, w, 3)."""
    patches = encoder.forward_features(normalize(images)).patches  # (n, N, D)
    return patch_pca(patches, n_components=3).unflatten(1, _grid(encoder, images))


def crops_of(
    augment: Augment, images: Tensor, sizes: Tensor, seed: int
) -> tuple[list[Tensor], Tensor]:
    """The views that a student sees, and where they were cut.

    Args:
        augment: makes them.
        images, sizes: as :meth:`dino_tutorial.datasets.ImageDataset.placed` gives them.
        seed: of the draw.

    Returns:
        V tensors (n, 3, h, w) in [0, 1], and boxes (n, V, 4) in pixels of the source: left, top,
        right, bottom.
    """
    generator = torch.Generator().manual_seed(seed)
    heights, widths = sizes.unbind(1)
    params = augment.sample(len(images), heights, widths, generator)
    groups = augment.apply(images, params)
    top, left, height, width = params.boxes.unbind(-1)  # (V, n)
    boxes = torch.stack([left, top, left + width, top + height], -1).transpose(0, 1)
    return [view for group in groups for view in augment.denormalize(group)], boxes


def filled(images: Tensor, sizes: Tensor) -> list[Tensor]:
    """What images (n, 3, S, S) fill of their canvases: n tensors (3, h, w)."""
    return [image[:, :h, :w] for image, (h, w) in zip(images, sizes.tolist(), strict=True)]


def nearest_images(
    encoder: nn.Module, bank: Subset, queries: Subset, k: int
) -> tuple[Tensor, Tensor]:
    """The k images of the bank that lie nearest to each query in feature space.

    The encoder describes them where it is: of photographs, on a GPU if there is one. A query that
    is in the bank, because both are of one data set, is no neighbour of itself.

    Returns:
        images (q, k, 3, H, W), nearest first, and their labels (q, k); of a bank of fewer than
        k images, all.

    Raises:
        UserError: the bank has no image but the query.
    """
    itself = torch.zeros(len(queries), len(bank), dtype=torch.bool)
    if bank.dataset is queries.dataset:
        itself = queries.indices[:, None] == bank.indices
    more = int(itself.any())
    k = min(k, len(bank) - more)
    if k < 1:
        raise UserError(f"{bank.name} has one image, which has no neighbours: add others to it")
    bank_features, bank_labels = extract_features(encoder, bank)
    features, _ = extract_features(encoder, queries)
    nearest = nearest_neighbours(bank_features, features, k + more)
    itself_last = itself.gather(1, nearest).int().argsort(dim=1, stable=True)
    nearest = nearest.gather(1, itself_last[:, :k])  # (q, k)
    return bank.images(nearest.flatten()).unflatten(0, nearest.shape), bank_labels[nearest]


def _grid(encoder: VisionTransformer, images: Tensor) -> tuple[int, int]:
    height, width = (side // encoder.patch_size for side in images.shape[-2:])
    return height, width
