"""A vision transformer as other programs want it: timm, transformers, ONNX."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.models.block import SwiGLU
from dino_tutorial.models.released import timm_arguments, to_timm
from dino_tutorial.models.vit import PatchEmbed, VisionTransformer
from dino_tutorial.normalization import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Folder:
    """What a folder holds that another program loads a model from.

    Attributes:
        weights: the contents of ``model.safetensors``.
        configs: the contents of the JSON files, by name.
        told: how it is loaded, with ``{path}`` in the folder's place.
    """

    weights: dict[str, Tensor]
    configs: dict[str, dict[str, Any]]
    told: str


def timm_folder(model: VisionTransformer) -> Folder:
    """A folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

    Raises:
        UserError: timm has no such model, see :func:`~dino_tutorial.models.to_timm`.
    """
    weights = to_timm(model).state_dict()
    arguments = timm_arguments(model)
    side = arguments["img_size"][0]
    gated = isinstance(model.blocks[0].mlp, SwiGLU)
    config: dict[str, Any] = {
        # Any size is built by the arguments below; of gated layers only this one tells.
        "architecture": "vit_giant_patch14_dinov2" if gated else "vit_small_patch16_224",
        "num_classes": 0,
        "num_features": model.embed_dim,
        "model_args": {name: value for name, value in arguments.items() if name != "num_classes"},
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [model.in_chans, side, side],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    told = '{path}: load it with timm.create_model("local-dir:{path}", pretrained=True)'
    return Folder(weights, {"config.json": config}, told)


def huggingface_folder(model: VisionTransformer) -> Folder:
    """A folder for transformers' ``Dinov2Model``; with registers, ``Dinov2WithRegistersModel``.

    The names are those of the files on the hub, which every version of transformers reads. With
    registers, position embeddings reach other image sizes as here. Without, transformers
    interpolates them without antialiasing: the outputs are equal at the model's own size only.

    Raises:
        UserError: transformers has no such model.
    """
    if not isinstance(model.patch_embed, PatchEmbed):
        raise UserError(
            "a convolutional stem has no counterpart in transformers: train with "
            "--set model.stem=patch"
        )
    mlp, dim = model.blocks[0].mlp, model.embed_dim
    gated = isinstance(mlp, SwiGLU)
    hidden = mlp.w3.in_features if isinstance(mlp, SwiGLU) else mlp.fc1.out_features
    ratio = round(hidden * (1.5 if gated else 1.0) / dim)
    expected = (int(dim * ratio * 2 / 3) + 7) // 8 * 8 if gated else dim * ratio
    if hidden != expected:
        raise UserError(
            f"feed-forward layers of width {hidden} are no whole multiple of {dim}, which "
            f"transformers asks for: use the usual mlp_ratio of 4"
        )
    registers = model.num_register_tokens
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    side = model.grid_size[0] * model.patch_size
    config: dict[str, Any] = {
        "architectures": [f"{kind}Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.num_heads,
        "mlp_ratio": ratio,
        "hidden_act": "gelu",
        "layer_norm_eps": model.norm.eps,
        "image_size": side,
        "patch_size": model.patch_size,
        "num_channels": model.in_chans,
        "qkv_bias": model.blocks[0].attn.qkv.bias is not None,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": gated,
        "torch_dtype": "float32",
        **({"num_register_tokens": registers} if registers else {}),
    }
    preprocessor: dict[str, Any] = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
    sizes = "" if registers else f", which agrees at {side} x {side} pixels"
    told = f'{{path}}: load it with transformers.{kind}Model.from_pretrained("{{path}}"){sizes}'
    configs = {"config.json": config, "preprocessor_config.json": preprocessor}
    return Folder(_huggingface_names(model), configs, told)


TO_HUGGING_FACE = {  # beginnings and parts of names here, and there
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "blocks.": "encoder.layer.",
    ".attn.proj.": ".attention.output.dense.",
    ".ls1.gamma": ".layer_scale1.lambda1",
    ".ls2.gamma": ".layer_scale2.lambda1",
    ".mlp.w12.": ".mlp.weights_in.",
    ".mlp.w3.": ".mlp.weights_out.",
}


def _huggingface_names(model: VisionTransformer) -> dict[str, Tensor]:
    named = {}
    for name, value in model.state_dict().items():
        if name.startswith("norm."):
            name = f"layernorm.{name.removeprefix('norm.')}"
        for ours, theirs in TO_HUGGING_FACE.items():
            name = name.replace(ours, theirs, 1)
        if ".attn.qkv." in name:
            for part, own in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = own
        else:
            named[name] = value
    for layer in range(len(model.blocks)):  # there is no model without
        for branch in (1, 2):
            name = f"encoder.layer.{layer}.layer_scale{branch}.lambda1"
            named.setdefault(name, torch.ones(model.embed_dim))
    return named


class OnnxTransformer(nn.Module):
    """A vision transformer in operations that ONNX has for images of any size.

    What differs from the model is how its positions reach the size: by two products with matrices
    that are worked out from it, see :func:`resampling`.
    """

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B N D"]]:
        """Images (B, C, H, W), normalised, to class tokens (B, D) and patch tokens (B, N, D)."""
        model = self.model
        height, width = (side // model.patch_size for side in images.shape[-2:])
        own = model.pos_embed[0, 1:].unflatten(0, model.grid_size)  # (h, w, D)
        rows = resampling(height, model.grid_size[0])
        columns = resampling(width, model.grid_size[1])
        positions = torch.einsum("ya,xb,abd->yxd", rows, columns, own).flatten(0, 1)
        prefix = model.cls_token + model.pos_embed[:, :1]
        if model.register_tokens is not None:
            prefix = torch.cat([prefix, model.register_tokens], dim=1)
        patches = model.patch_embed(images) + positions
        x = torch.cat([prefix.expand(images.shape[0], -1, -1), patches], dim=1)
        for block in model.blocks:
            x = block(x)
        x = model.norm(x)
        return x[:, 0], x[:, 1 + model.num_register_tokens :]


def resampling(out: int | torch.SymInt, own: int) -> Float[Tensor, "out own"]:
    """The matrix (out, own) of antialiased bicubic resampling along one axis.

    A row holds the cubic kernel (a = −1/2) about the place of an output among the inputs, widened
    where there are fewer outputs, and divided by its sum.
    """
    places = torch.arange(out) + 0.5
    scale = own / torch.ones_like(places).sum()
    distance = (torch.arange(own) + 0.5 - places[:, None] * scale) / scale.clamp(min=1)
    d = distance.abs()
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    weights = torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
    return weights / weights.sum(dim=1, keepdim=True)
