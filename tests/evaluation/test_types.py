"""Features and labels of any type mean the same; what cannot mean any is told in one sentence."""

import numpy as np
import pytest
import torch
from torch import nn

from dino_tutorial.datasets import ArrayDataset
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    accuracy,
    copy_detection,
    extract_features,
    extract_patches,
    feature_spread,
    knn_accuracies,
    knn_classify,
    label_efficiency,
    linear_probe,
    nearest_neighbours,
    normalize,
    recall_at,
    retrieval_map,
)
from dino_tutorial.models import VisionTransformer

pytestmark = pytest.mark.usefixtures("unchecked")  # what is handed over is of other types

G = torch.Generator().manual_seed(0)
Y = torch.arange(60) % 3
X = torch.randn(60, 6, generator=G) + 3 * torch.eye(6)[Y]
# Values that float16 and bfloat16 hold exactly, so that all types are the same numbers.
X = X.bfloat16().half().float()

FEATURES = {
    "numpy": lambda x: x.numpy(),
    "numpy reversed twice": lambda x: np.flip(np.flip(x.numpy(), 0).copy(), 0),
    "lists": lambda x: x.tolist(),
    "float64": lambda x: x.double(),
    "half": lambda x: x.half(),
    "non-contiguous": lambda x: x.T.contiguous().T,
    "requires_grad": lambda x: x.clone().requires_grad_(),
}
LABELS = {
    "numpy": lambda y: y.numpy(),
    "list": lambda y: y.tolist(),
    "int32": lambda y: y.int(),
    "uint8": lambda y: y.to(torch.uint8),
    "int16 of numpy": lambda y: y.numpy().astype(np.int16),
    "numpy integers": lambda y: list(y.numpy()),
    "float": lambda y: y.float(),
}
MEASURES = {
    "knn_classify": lambda x, y: knn_classify(x, y, x, np.int64(5)),
    "knn_accuracies": lambda x, y: knn_accuracies(x, y, x, y, [3])[3],
    "accuracy": lambda x, y: accuracy(x, y, topk=2),
    "linear_probe": lambda x, y: linear_probe(x, y, x, y, steps=20).weight,
    "label_efficiency": lambda x, y: label_efficiency(x, y, x, y, [3], n_subsets=2).knn,
    "retrieval_map": lambda x, y: retrieval_map(x, y),
    "retrieval_map with a gallery": lambda x, y: retrieval_map(x, y, x, y),
    "recall_at": lambda x, y: recall_at(x, y)[5],
    "copy_detection": lambda x, y: copy_detection(x, y)["auc"],
    "nearest_neighbours": lambda x, y: nearest_neighbours(x, x, 4),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_types_of_features_and_labels_change_no_result(measure):
    expected = torch.as_tensor(MEASURES[measure](X, Y))
    for name, change in FEATURES.items():
        found = torch.as_tensor(MEASURES[measure](change(X), Y))
        torch.testing.assert_close(
            found.to(expected.dtype), expected, atol=1e-4, rtol=1e-4, msg=f"of {name}"
        )
    for name, change in LABELS.items():
        found = torch.as_tensor(MEASURES[measure](X, change(Y)))
        torch.testing.assert_close(found, expected, msg=f"of {name}")


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("bad", ["text", None, object(), {"a": 1}, [[1.0], [1.0, 2.0]]])
def test_what_is_no_features_is_one_sentence(measure, bad):
    with pytest.raises(UserError):
        MEASURES[measure](bad, Y)


@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - {"nearest_neighbours"}))
@pytest.mark.parametrize("bad", ["text", ["cat", "dog"] * 30, Y.float() + 0.5, Y[:, None]])
def test_what_is_no_labels_is_one_sentence(measure, bad):
    with pytest.raises(UserError):
        MEASURES[measure](X, bad)


class Encoder(nn.Module):
    """Returns whatever it is told to of the mean colours of images."""

    def __init__(self, returned=lambda x: x, dtype=torch.float32):
        super().__init__()
        self.returned, self.linear = returned, nn.Linear(3, 4).to(dtype)

    def forward(self, x):
        return self.returned(self.linear(x.mean((2, 3))))


PIXELS = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=G)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_encoders_in_other_precisions(dtype):
    features, _ = extract_features(Encoder(dtype=dtype), ArrayDataset(PIXELS))
    assert features.dtype == torch.float32 and features.shape == (6, 4)
    vit = VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2).to(dtype)
    assert extract_patches(vit, ArrayDataset(PIXELS)).shape == (6, 4, 8)
    assert feature_spread(torch.randn(8, 4).to(dtype)).isfinite()


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda x: (x, x), "returned a tuple"),
        (lambda x: {"features": x}, "returned a dict"),
        (lambda x: None, "returned a NoneType"),
        (lambda x: x[:, :, None], r"\(6, 4, 1\)"),
        (lambda x: x[:1], r"\(1, 4\)"),
        (lambda x: x > 0, "torch.bool"),
    ],
)
def test_encoders_that_return_something_else(returned, told):
    with pytest.raises(UserError, match=told):
        extract_features(Encoder(returned), ArrayDataset(PIXELS))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_of_other_channels(channels):
    pixels = torch.zeros(2, channels, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
        normalize(pixels)
    vit = VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    for look in (vit, vit.forward_features, vit.get_attention):
        with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
            look(pixels.float())
    with pytest.raises(UserError, match="uint8"):
        normalize(torch.zeros(2, 3, 8, 8, dtype=torch.int64))


def test_data_sets_of_arrays():
    made = ArrayDataset(PIXELS.numpy(), np.arange(6, dtype=np.int32), tuple("abcdef"))
    assert torch.equal(made.images(), PIXELS) and made.labels.dtype == torch.int64
    assert ArrayDataset(PIXELS, [0.0, 1.0] * 3).labels.tolist() == [0, 1] * 3
    assert made[np.int64(2)][1] == 2
    with pytest.raises(UserError, match="whole numbers"):
        ArrayDataset(PIXELS, [0.5] * 6)
