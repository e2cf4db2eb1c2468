"""Residual networks as encoders."""

import pytest
import torch
import torchvision

from dino_tutorial.errors import UserError
from dino_tutorial.models import ConvNet, build_encoder


@pytest.mark.parametrize(("arch", "width"), [("resnet18", 512), ("resnet34", 512)])
def test_features_are_what_the_classifier_of_torchvision_reads(arch, width):
    torch.manual_seed(0)
    encoder = build_encoder(arch).eval()
    whole = torchvision.models.get_model(arch, weights=None, num_classes=7).eval()
    state = {name.removeprefix("trunk."): value for name, value in encoder.state_dict().items()}
    whole.load_state_dict(state, strict=False)
    x = torch.randn(2, 3, 64, 64)
    features = encoder(x)
    assert features.shape == (2, encoder.embed_dim) == (2, width)
    torch.testing.assert_close(whole.fc(features), whole(x))


def test_width_of_resnet50():
    with torch.device("meta"):
        assert ConvNet("resnet50").embed_dim == 2048


def test_small_images_keep_their_resolution_to_the_first_stage():
    torch.manual_seed(0)
    encoder = ConvNet("resnet18", small_images=True).eval()
    shapes = []
    encoder.trunk.layer1.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    encoder(torch.randn(1, 3, 32, 32))
    assert shapes == [(1, 64, 32, 32)]


def test_several_resolutions_are_each_of_them_in_order():
    torch.manual_seed(0)
    encoder = ConvNet("resnet18", small_images=True).eval()
    batches = [torch.randn(2, 3, 16, 16), torch.randn(1, 3, 8, 12)]
    expected = torch.cat([encoder(batch) for batch in batches])
    torch.testing.assert_close(encoder(batches), expected)


def test_unknown_network():
    with pytest.raises(UserError, match="resnet101.*resnet18"):
        ConvNet("resnet101")


def test_small_network_counts_its_parameters_and_multiplications():
    encoder = build_encoder("resnet10").eval()
    assert encoder.embed_dim == 256
    assert sum(p.numel() for p in encoder.parameters()) == 1_226_400
    multiplications = []

    def count(layer, inputs, output):
        per_position = layer.weight[0].numel() * layer.out_channels
        multiplications.append(per_position * output.shape[-1] * output.shape[-2])

    for layer in encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    x = torch.randn(3, 3, 32, 32)
    features = encoder(x)
    assert features.shape == (3, 256)
    assert 15.5e6 < sum(multiplications) < 16.5e6


def test_small_network_takes_several_resolutions():
    encoder = build_encoder("resnet10").eval()
    large, small = torch.randn(2, 3, 32, 32), torch.randn(4, 3, 16, 16)
    expected = torch.cat([encoder(large), encoder(small)])
    torch.testing.assert_close(encoder([large, small]), expected)
