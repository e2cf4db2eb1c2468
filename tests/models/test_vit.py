"""The vision transformer against its equations, written out here a second time."""

import pytest
import torch
import torch.nn.functional as F

from dino_tutorial.errors import UserError
from dino_tutorial.models import (
    VisionTransformer,
    build_encoder,
    vit_base,
    vit_giant,
    vit_large,
    vit_small,
    vit_tiny,
)
from dino_tutorial.models.block import Block, DropPath, SwiGLU
from dino_tutorial.models.shortcuts import LastSampledBlock, SampledBlock
from dino_tutorial.models.vit import ConvStem, LocalConvStem, PatchEmbed

VARIANTS = {
    "plain": {},
    "no qkv bias": {"qkv_bias": False},
    "registers and layer scale": {"num_register_tokens": 2, "layer_scale_init": 0.5},
    "swiglu": {"ffn": "swiglu", "mlp_ratio": 3.0},
    "convolutional stem": {"stem": "conv"},
    "local convolutional stem": {"stem": "conv_local"},
    "drop path": {"drop_path_rate": 0.5, "depth": 3},
    "dropped samples": {"drop_path_rate": 0.5, "drop_path_uniform": True},
    "one block": {"depth": 1},
}


def make(seed=0, **overrides):
    """A small model whose parameters are all random, so that none of them can be left out."""
    torch.manual_seed(seed)
    defaults = dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)
    model = VisionTransformer(**(defaults | overrides))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def images(batch=3, height=16, width=16, seed=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request):
    return make(**request.param)


def written_out(model, x):
    """The forward pass for one square image at the training size, token by token in plain terms."""
    p, d, heads = model.patch_size, model.embed_dim, model.num_heads
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    tokens = F.conv2d(x, weight, bias, stride=p)[0].flatten(1).T
    tokens = torch.cat([model.cls_token[0], tokens]) + model.pos_embed[0]
    if model.register_tokens is not None:
        tokens = torch.cat([tokens[:1], model.register_tokens[0], tokens[1:]])

    def norm(t, layer):
        centred = t - t.mean(-1, keepdim=True)
        unit = centred / (t.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return unit * layer.weight + layer.bias

    for block in model.blocks:
        qkv = block.attn.qkv(norm(tokens, block.norm1))
        q, k, v = (part.view(len(tokens), heads, -1) for part in qkv.split(d, dim=-1))
        scores = torch.einsum("ihd,jhd->hij", q, k) / (d // heads) ** 0.5
        mixed = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(len(tokens), d)
        tokens = tokens + block.ls1(block.attn.proj(mixed))
        hidden = norm(tokens, block.norm2)
        if isinstance(block.mlp, SwiGLU):
            gate, value = block.mlp.w12(hidden).chunk(2, -1)
            hidden = block.mlp.w3(gate * torch.sigmoid(gate) * value)
        else:
            hidden = block.mlp.fc1(hidden)
            hidden = block.mlp.fc2(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))
        tokens = tokens + block.ls2(hidden)
    return norm(tokens, model.norm)


@pytest.mark.parametrize("variant", ["plain", "no qkv bias", "registers and layer scale", "swiglu"])
def test_forward_is_the_written_out_equations(variant):
    model, x = make(**VARIANTS[variant]), images(batch=1)
    expected = written_out(model, x)
    features = model.forward_features(x)
    registers = model.num_register_tokens
    torch.testing.assert_close(features.cls[0], expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.registers[0], expected[1 : 1 + registers])
    torch.testing.assert_close(features.patches[0], expected[1 + registers :], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(x)[0], expected[0], atol=1e-5, rtol=1e-4)


def test_class_token_path_has_the_values_and_gradients_of_the_full_path(model):
    x = images(height=16, width=24)
    results = []
    for path in (model, lambda x: model.forward_features(x).cls):
        model.zero_grad()
        torch.manual_seed(5)  # the same branches are dropped
        output = path(x)
        output.pow(3).sum().backward()
        results.append((output, {n: p.grad for n, p in model.named_parameters()}))
    (short, short_grads), (full, full_grads) = results
    torch.testing.assert_close(short, full, atol=1e-5, rtol=1e-4)
    for name, expected in full_grads.items():
        if expected is not None:
            # A bias before batch norm has no gradient but rounding: hence the floor.
            atol = 1e-4 * expected.abs().max().item() + 1e-5
            torch.testing.assert_close(short_grads[name], expected, atol=atol, rtol=1e-3)


def test_every_trainable_parameter_gets_a_gradient(model):
    """Distributed training waits for a gradient of each parameter, and refuses unused ones."""
    model([images(), images(height=8, width=8)]).sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_no_gradient_reaches_the_images_unless_asked(model):
    x = images()
    model(x).sum().backward()
    assert x.grad is None
    x.requires_grad_()
    model(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_list_of_resolutions_is_each_of_them_in_order(model):
    model.eval()
    batches = [images(2), images(3, 8, 12), images(1, 24, 16)]
    expected = torch.cat([model(batch) for batch in batches])
    torch.testing.assert_close(model(batches), expected)
    torch.testing.assert_close(model(tuple(batches)), expected)
    assert expected.shape == (6, model.embed_dim)


def test_shapes(model):
    model.eval()
    x, registers, heads = images(2, 12, 20), model.num_register_tokens, model.num_heads
    features = model.forward_features(x)
    tokens = 1 + registers + 15
    assert model(x).shape == features.cls.shape == (2, 24)
    assert features.registers.shape == (2, registers, 24)
    assert features.patches.shape == (2, 15, 24)
    assert model.get_attention(x).shape == (2, heads, tokens, tokens)
    assert [t.shape for t in model.get_intermediate_layers(x, n=1)] == [(2, tokens, 24)]


def test_images_of_a_batch_do_not_see_each_other(model):
    model.eval()
    x = images(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(x[order]), model(x)[order])


def test_without_positions_the_order_of_patches_does_not_matter():
    model = make()
    with torch.no_grad():
        model.pos_embed.zero_()
    x = images(1)
    rows = x.unflatten(2, (4, 4))[:, :, [2, 0, 3, 1]].flatten(2, 3)  # rows of patches
    torch.testing.assert_close(model(rows), model(x))
    patches = model.forward_features(x).patches.unflatten(1, (4, 4))[:, [2, 0, 3, 1]].flatten(1, 2)
    torch.testing.assert_close(model.forward_features(rows).patches, patches)


def test_attention_rows_sum_to_one_and_are_what_the_block_uses():
    model, x = make(num_register_tokens=1), images()
    attention = model.get_attention(x, layer=0)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 3, 18))
    block = model.blocks[0]
    tokens = block.norm1(model.prepare_tokens(x))
    values = block.attn.qkv(tokens)[..., 48:].unflatten(-1, (3, 8)).transpose(1, 2)
    mixed = (attention @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attn.proj(mixed), block.attn(tokens))
    torch.testing.assert_close(model.get_attention(x, -2), attention)
    assert not torch.allclose(model.get_attention(x), attention)


def test_intermediate_layers_end_with_the_output():
    model, x = make(depth=3), images()
    second, last = model.get_intermediate_layers(x, n=2)
    features = model.forward_features(x)
    torch.testing.assert_close(last[:, 0], features.cls)
    torch.testing.assert_close(last[:, 1:], features.patches)
    shorter = make(depth=3)
    shorter.blocks = shorter.blocks[:2]
    torch.testing.assert_close(second, shorter.get_intermediate_layers(x)[0])


@pytest.mark.parametrize("stem", ["patch", "conv", "conv_local"])
def test_masked_patches_are_not_seen(stem):
    model = make(stem=stem).eval()
    masks = torch.zeros(3, 16, dtype=torch.bool)
    masks[0, 5] = masks[2, [0, 15]] = True
    x = images()
    changed = x.clone()
    changed[0, :, 4:8, 4:8] += 1.0
    changed[2, :, :4, :4] -= 1.0
    before, after = (model.forward_features(v, masks) for v in (x, changed))
    torch.testing.assert_close(after.patches, before.patches)
    plain = model.forward_features(x)
    torch.testing.assert_close(before.cls[1], plain.cls[1])  # nothing of image 1 is masked
    assert not torch.allclose(before.cls[0], plain.cls[0])
    assert not torch.allclose(model.forward_features(changed).cls[0], plain.cls[0])


def test_mask_token_learns_only_when_thawed():
    model = make()
    masks = torch.ones(3, 16, dtype=torch.bool)
    assert not model.mask_token.requires_grad
    model.mask_token.requires_grad_()
    model.forward_features(images(), masks).patches.pow(3).sum().backward()
    assert model.mask_token.grad.abs().sum() > 0


def test_masks_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"\(3, 9\).*\(3, 16\)"):
        make().forward_features(images(), torch.zeros(3, 9, dtype=torch.bool))


@pytest.mark.parametrize("mode", ["antialias", "offset"])
def test_position_embeddings_at_another_size_keep_a_constant_and_a_direction(mode):
    model = make(img_size=32)
    model.pos_embed_mode = mode
    ramp = torch.arange(8.0).view(8, 1).expand(8, 8).flatten()
    with torch.no_grad():
        model.pos_embed.zero_()
        model.pos_embed[0, 1:, 0] = 3.0
        model.pos_embed[0, 1:, 1] = ramp
    positions = model.positions(4, 6)[0, 1:].view(4, 6, -1)
    torch.testing.assert_close(positions[..., 0], torch.full((4, 6), 3.0))
    assert (positions[1:, :, 1] > positions[:-1, :, 1]).all()  # grows downwards
    torch.testing.assert_close(positions[:, 0, 1], positions[:, 5, 1])  # not sideways
    assert model.positions(8, 8) is model.pos_embed


def test_training_size_may_be_a_rectangle():
    model = make(img_size=(8, 16))
    assert model.grid_size == (2, 4)
    assert model.positions(2, 4) is model.pos_embed
    assert model(images(2, 16, 8)).shape == (2, 24)


@pytest.mark.parametrize(("height", "width"), [(18, 16), (16, 18)])
def test_a_size_that_patches_do_not_divide_is_refused(height, width):
    with pytest.raises(UserError, match=f"{height} x {width} pixels .* multiples of 4"):
        make()(images(1, height, width))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 5}, "embed_dim=24"),
        ({"img_size": 18}, "18 x 18"),
        ({"ffn": "glu"}, "mlp, swiglu"),
        ({"stem": "resnet"}, "patch, conv, conv_local"),
        ({"stem": "conv", "patch_size": 6, "img_size": 12}, "power of two"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        make(**arguments)


def test_patch_embedding_is_the_convolution():
    torch.manual_seed(0)
    embed, x = PatchEmbed(4, 3, 10), images(2, 8, 12)
    torch.testing.assert_close(embed(x), embed.proj(x).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    "kind, normed", [(ConvStem, (1, 2, 3)), (LocalConvStem, 1)], ids=["image", "position"]
)
def test_convolutional_stem_by_channels_first_operations(kind, normed):
    torch.manual_seed(0)
    stem, x = kind(4, 3, 64), images(2, 16, 24)
    y = x
    for conv, norm in zip(stem.convs, stem.norms, strict=True):
        y = F.conv2d(y, conv.weight, conv.bias, stride=2, padding=1)
        mean, variance = y.mean(normed, keepdim=True), y.var(normed, False, keepdim=True)
        y = (y - mean) / (variance + 1e-5).sqrt()
        y = F.gelu(y * norm.weight[:, None, None] + norm.bias[:, None, None])
    y = F.conv2d(y, stem.proj.weight[..., None, None], stem.proj.bias)
    assert [conv.out_channels for conv in stem.convs] == [32, 64]
    torch.testing.assert_close(stem(x), y.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_a_local_stem_sees_the_pixels_around_a_patch_alone():
    torch.manual_seed(0)
    x = images(1, 32, 32)
    changed = x.clone()
    changed[..., :16] += 1.0  # the left half
    seen = {}
    for kind in (ConvStem, LocalConvStem):
        stem = kind(8, 3, 64)
        difference = (stem(x) - stem(changed)).detach().abs().amax(-1).reshape(4, 4)
        seen[kind] = (difference > 1e-6).any(0).tolist()
    # Tokens of the third column look back over 2P - 1 = 15 pixels: one before their own patch.
    assert seen[LocalConvStem] == [True, True, True, False]
    assert seen[ConvStem] == [True, True, True, True]


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = DropPath(0.3), torch.ones(20_000, 2, 3)
    kept = drop(x)
    assert (kept == kept[:, :1, :1]).all()
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert drop.eval()(x) is x


def test_drop_path_grows_linearly_with_depth():
    blocks = make(depth=5, drop_path_rate=0.4).blocks
    rates = [getattr(block.drop_path, "rate", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


class Plus(torch.nn.Module):
    """Stands in for a branch: x + 1, and a note of how many samples came by."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return x + 1


def sampled_block(rate=0.5):
    """A block whose first branch adds x + 1 and whose second adds nothing."""
    block = SampledBlock(2, 1, drop_path_rate=rate).train()
    block.norm1 = block.ls1 = torch.nn.Identity()
    block.attn = Plus()
    torch.nn.init.zeros_(block.mlp.fc2.weight), torch.nn.init.zeros_(block.mlp.fc2.bias)
    return block


def test_dropped_samples_keep_their_tokens_and_are_not_computed():
    """At a rate of 0.5, four of eight samples get twice the branch's update, the others none."""
    torch.manual_seed(0)
    block, x = sampled_block(), torch.randn(8, 3, 2)
    change = block(x) - x
    updated = change.abs().sum(dim=(1, 2)) > 0
    assert updated.sum() == 4 and block.attn.seen == [4]
    torch.testing.assert_close(change[updated], 2 * (x[updated] + 1))
    again = {tuple((block(x) != x).any(-1).any(-1).tolist()) for _ in range(20)}
    assert len(again) > 5  # drawn anew each time
    torch.testing.assert_close(block(x[:1]), 2 * x[:1] + 1)  # never fewer than one
    torch.testing.assert_close(block.eval()(x), 2 * x + 1)


def test_both_branches_of_a_sampled_block_are_those_of_a_block():
    """At a rate that keeps all but in name: one sample is always kept."""
    torch.manual_seed(0)
    plain, x = Block(24, 3, layer_scale_init=0.5), torch.randn(1, 4, 24)
    for kind in (SampledBlock, LastSampledBlock):
        sampled = kind(24, 3, layer_scale_init=0.5, drop_path_rate=0.9).train()
        sampled.load_state_dict(plain.state_dict())
        assert sampled.drops
        torch.testing.assert_close(sampled(x), plain(x))
    torch.testing.assert_close(sampled(x, cls_only=True), plain(x)[:, :1])


def test_dropped_samples_keep_the_mean():
    torch.manual_seed(0)
    block, x = sampled_block(rate=0.4), torch.rand(10, 4, 2) - 1  # branches between 0 and 1
    mean = torch.stack([block(x) for _ in range(3000)]).mean(dim=0)
    torch.testing.assert_close(mean, 2 * x + 1, atol=0.06, rtol=0)


def test_uniform_drop_path_is_the_same_in_all_blocks():
    blocks = make(depth=3, drop_path_rate=0.4, drop_path_uniform=True).blocks
    assert [block.drop_path.rate for block in blocks] == [0.4] * 3


def test_initialisation():
    torch.manual_seed(0)
    model = vit_tiny(num_register_tokens=4)
    drawn = [model.pos_embed, model.blocks[3].attn.qkv.weight, model.blocks[3].mlp.fc1.weight]
    for parameter in drawn:
        assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].attn.qkv.bias.abs().max() == 0
    bound = (3 * 16 * 16) ** -0.5  # the framework's uniform initialisation of a convolution
    assert model.patch_embed.proj.weight.abs().max().item() == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize(
    ("build", "millions"),
    [(vit_tiny, 5.52), (vit_small, 21.67), (vit_base, 85.80), (vit_large, 303.30)],
)
def test_sizes_of_the_named_models(build, millions):
    with torch.device("meta"):
        model = build()
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


def test_giant_is_the_one_of_dinov2():
    with torch.device("meta"):
        model = vit_giant(img_size=518)
    assert sum(p.numel() for p in model.parameters()) == 1_136_480_768
    assert model.blocks[0].mlp.w12.out_features == 2 * 4096
    assert (model.patch_size, len(model.blocks), model.num_heads) == (14, 40, 24)


@pytest.mark.usefixtures("unchecked")
def test_compiles_into_one_graph():
    model = make(num_register_tokens=1, drop_path_rate=0.2).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    batches = [images(), images(height=8, width=8)]
    torch.testing.assert_close(compiled(batches), model(batches))


def test_autocast_stays_near_full_precision():
    model, x = make(num_register_tokens=1), images()
    with torch.autocast("cpu", torch.bfloat16):
        low = model([x, images(2, 8, 8)])
    torch.testing.assert_close(low[:3].float(), model(x), atol=0.1, rtol=0.1)


def test_build_encoder_names_what_it_does_not_know():
    assert build_encoder("vit_tiny", depth=1, embed_dim=48).embed_dim == 48
    with pytest.raises(UserError, match="vit_huge.*vit_tiny"):
        build_encoder("vit_huge")
    with pytest.raises(UserError, match="no argument layers.*depth"):
        build_encoder("vit_tiny", layers=3)


@pytest.mark.parametrize("mode", ["antialias", "offset"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_at_another_size(dtype, mode):
    """Positions are interpolated in float32, whatever the weights are kept in."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2).eval()
    model.pos_embed_mode = mode
    expected = model.positions(6, 3)
    x = torch.randn(2, 3, 48, 24)
    full = model(x)
    low = model.to(dtype)
    found = low.positions(6, 3)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=1e-2)
    assert low(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(low(x.to(dtype)).float(), full, atol=0.1, rtol=0.1)
    assert low.forward_features(x.to(dtype)).patches.shape == (2, 18, 32)
    assert low.get_attention(x.to(dtype)).isfinite().all()
    double = model.double()
    assert double.positions(6, 3).dtype == torch.float64
