"""From images to frozen features: one pass of an encoder over a data set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Real, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from dino_tutorial.errors import UserError
from dino_tutorial.normalization import IMAGENET_MEAN, IMAGENET_STD, check_pixels
from dino_tutorial.options import number, numbers, on_device, takes, tensor, whole


@runtime_checkable
class LabelledImages(Protocol):
    """What evaluation asks of a data set."""

    labels: Int[Tensor, " N"]  # (N,) int64

    def __len__(self) -> int: ...

    def images(self, indices: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3 H W"]:
        """uint8 (n, 3, H, W)."""
        ...


@takes(
    batch_size=whole(),
    device=on_device,
    mean=numbers(number(-1e6, 1e6), 3),
    std=numbers(number(0, 1e6, above=True), 3),
)
def extract_features(
    encoder: nn.Module,
    dataset: LabelledImages,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    progress: bool = False,
) -> tuple[Float[Tensor, "N D"], Int[Tensor, " N"]]:
    """Features of every image, in the order of the data set.

    The encoder runs in evaluation mode without gradients; afterwards each of its modules is back
    in the mode that it was in. On CUDA its products are in bf16, or in fp16 where it has no bf16.
    Pixels travel to the device as bytes and are normalised there.

    Args:
        encoder: ``forward(images (B, 3, H, W)) -> (B, D)``.
        dataset: N images.
        batch_size: images in one forward pass; the result does not depend on it.
        device: where the encoder is; by default the device of its first parameter.
        mean, std: of red, green, blue for pixels in [0, 1]; those of the training.
        progress: show a progress bar.

    Returns:
        Features (N, D) float32 and labels (N,) int64, both on the CPU.

    Raises:
        UserError: if the data set is empty or the encoder returns anything but (B, D).
    """
    if len(dataset) == 0:
        raise UserError("there are no images to extract features from: the data set is empty")
    if device is None:
        device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    # Weights in half or double precision want their images so.
    precision = next(
        (p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32
    )
    features = None
    batches = torch.arange(len(dataset)).split(batch_size)
    with evaluating(encoder):
        for indices in tqdm(batches, desc="features", unit="batch", disable=not progress):
            pixels = dataset.images(indices).to(device, non_blocking=True)
            with torch.inference_mode(), products(device, precision):
                batch = encoder(normalize(pixels, mean, std).to(precision))
            _check_output(batch, len(indices))
            if features is None:  # an ordinary tensor, unlike the batches: a probe may train on it
                features = torch.empty(len(dataset), batch.shape[1])
            features[indices[0] : indices[-1] + 1] = batch
    return features, dataset.labels.cpu()


def products(device: torch.device | str, precision: torch.dtype) -> torch.autocast:
    """On CUDA, products of a float32 encoder in bf16, or fp16 where the hardware has no bf16."""
    kind = torch.device(device).type
    enabled = kind == "cuda" and precision == torch.float32
    if not enabled:
        return torch.autocast(kind, enabled=False)
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(kind, torch.bfloat16 if native else torch.float16)


def _check_output(batch: Any, images: int) -> None:
    if not isinstance(batch, Tensor):
        raise UserError(
            f"the encoder must return features (B, D), but it returned a {type(batch).__name__}: "
            "wrap it so that it returns one tensor, such as its class tokens"
        )
    if batch.ndim != 2 or len(batch) != images or not batch.is_floating_point():
        raise UserError(
            f"the encoder must return features (B, D), but {images} images gave "
            f"{tuple(batch.shape)} of {batch.dtype}"
        )


@takes(
    pixels=tensor("..."),
    mean=numbers(number(-1e6, 1e6)),
    std=numbers(number(0, 1e6, above=True)),
)
def normalize(
    pixels: Real[Tensor, "*B 3 H W"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Tensor, "*B 3 H W"]:
    """uint8 (B, 3, H, W), or float in [0, 1], to float32 with the given mean and std removed.

    Raises:
        UserError: pixels of another type, or of another number of channels than means.
    """
    check_pixels(pixels)
    if pixels.ndim < 3 or pixels.shape[-3] != len(mean):
        raise UserError(
            f"images have to be (B, {len(mean)}, H, W), not {tuple(pixels.shape)}: repeat a gray "
            "channel, leave an alpha channel out"
        )
    if len(std) != len(mean):
        raise UserError(f"{len(mean)} means and {len(std)} standard deviations: give as many")
    unit = 255.0 if pixels.dtype == torch.uint8 else 1.0
    mean_, std_ = (torch.tensor(v, device=pixels.device)[:, None, None] * unit for v in (mean, std))
    return (pixels.float() - mean_) / std_


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode, and give every submodule its own mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
