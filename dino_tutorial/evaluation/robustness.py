"""What corrupted images cost: accuracy under corruptions of growing severity.

The classifier is trained on clean features only. What counts as a corruption is the caller's
business; the measures are those of Hendrycks and Dietterich (ICLR 2019), section 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.features import LabelledImages
from dino_tutorial.evaluation.knn import accuracy
from dino_tutorial.options import numbers, takes, whole
from dino_tutorial.options.arguments import shown

CHUNK = 256  # images corrupted at a time, with one seed


@dataclass(frozen=True)
class Robustness:
    """Accuracies in 0..1 on clean and corrupted images.

    Attributes:
        kinds: names of the c corruptions.
        severities: (s,).
        clean: on the images as they are.
        accuracy: (c, s).
    """

    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    clean: float
    accuracy: Float[Tensor, "c s"]

    @property
    def mean_error(self) -> float:
        """The error, averaged over corruptions and severities."""
        return 1 - float(self.accuracy.mean())

    @property
    def relative_error(self) -> float:
        """How much the error grows from clean to corrupted images, averaged alike.

        It is small also for a classifier that is bad on clean images: read it beside ``clean``.
        """
        return self.clean - float(self.accuracy.mean())


@takes(severities=numbers(whole(0)), seed=whole(0, 2**63 - 1))
def measure_robustness(
    describe: Callable[[LabelledImages], Tensor],
    classify: Callable[[Tensor], Tensor],
    test_set: LabelledImages,
    corrupt: Callable[[Tensor, str, int, int], Tensor],
    kinds: Sequence[str],
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    seed: int = 0,
) -> Robustness:
    """Classify the test images clean, and under every corruption at every severity.

    >>> bank, labels = extract_features(encoder, train_set)
    >>> measure_robustness(
    ...     lambda images: extract_features(encoder, images)[0],
    ...     lambda features: knn_classify(bank, labels, features),
    ...     test_set, corrupt, CORRUPTIONS,
    ... )

    With ``pixel_features`` or ``color_histogram`` as ``describe`` the same call gives the
    baselines; noise and place of every corruption are the same for all of them.

    Args:
        describe: from a data set to features (N, D).
        classify: from features to scores (N, C), trained on clean images: a
            :class:`LinearProbe`, or :func:`knn_classify` with its bank.
        test_set: N images with labels.
        corrupt: ``corrupt(images uint8 (n, 3, H, W), kind, severity, seed)`` -> uint8, alike;
            ``dino_tutorial.datasets.scenes.corrupt`` is one.
        kinds, severities: what it is called with, in all combinations.
        seed: of the corruptions.

    Raises:
        UserError: if there is nothing to measure.
    """
    if len(test_set) == 0 or not kinds or not severities:
        raise UserError(
            f"robustness needs images, corruptions and severities: got {len(test_set)} images, "
            f"{len(kinds)} corruptions and {len(severities)} severities"
        )

    def measure(images: LabelledImages) -> float:
        return accuracy(classify(describe(images)), test_set.labels)

    scores = [
        [
            measure(CorruptedImages(test_set, corrupt, kind, severity, seed))
            for severity in severities
        ]
        for kind in kinds
    ]
    return Robustness(tuple(kinds), tuple(severities), measure(test_set), torch.tensor(scores))


@takes()
def mean_corruption_error(result: Robustness, reference: Robustness) -> dict[str, float]:
    """Errors in units of a reference's errors, so that hard corruptions do not decide alone.

    With the error E at corruption c and severity s, both are averages over c:

    * ``mce``: Σₛ E / Σₛ E of the reference;
    * ``relative_mce``: Σₛ (E − E clean) / Σₛ (E − E clean) of the reference. It is NaN where the
      reference loses nothing to a corruption.

    Below 1 is better than the reference, above 1 worse. The paper takes AlexNet; on small images
    raw pixels or the untrained encoder serve as well.

    Args:
        result, reference: measured with the same corruptions and severities.

    Raises:
        UserError: if they were not.

    Source: Hendrycks and Dietterich 2019, section 4.2.
    """
    if (result.kinds, result.severities) != (reference.kinds, reference.severities):
        raise UserError("result and reference must be measured with the same corruptions")
    errors, others = (1 - r.accuracy.double() for r in (result, reference))
    growth = (errors - 1 + result.clean).sum(dim=1)
    other_growth = (others - 1 + reference.clean).sum(dim=1)
    relative = torch.where(other_growth > 0, growth / other_growth, torch.nan)
    return {
        "mce": float((errors.sum(dim=1) / others.sum(dim=1)).mean()),
        "relative_mce": float(relative.mean()),
    }


class CorruptedImages:
    """A data set whose images were all corrupted once, so that every feature sees the same ones.

    Args:
        dataset: N images; they are kept corrupted, uint8, beside the originals.
        corrupt, kind, severity, seed: as for :func:`measure_robustness`.
    """

    @takes(severity=whole(0), seed=whole(0, 2**63 - 1))
    def __init__(
        self,
        dataset: LabelledImages,
        corrupt: Callable[[Tensor, str, int, int], Tensor],
        kind: str,
        severity: int,
        seed: int = 0,
    ) -> None:
        self.labels = dataset.labels
        chunks = torch.arange(len(dataset)).split(CHUNK)
        self._images = torch.cat(
            [
                _corrupted(corrupt, dataset.images(indices), kind, severity, seed + number)
                for number, indices in enumerate(chunks)
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor | None = None) -> Tensor:
        """uint8 (n, 3, H, W)."""
        return self._images if indices is None else self._images[indices]


def _corrupted(corrupt: Callable[..., Any], images: Tensor, *how: Any) -> Tensor:
    found = corrupt(images, *how)
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (images.shape, images.dtype):
        raise UserError(
            f"corrupt has to return images like those that it is given, {images.dtype} of shape "
            f"{tuple(images.shape)}, and returned {shown(found)}"
        )
    return found
