"""An encoder out of a file of weights alone: its architecture is told by names and shapes."""

import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.models.notes import notes_of
from dino_tutorial.models.released import fill, flat_blocks, read_state
from dino_tutorial.models.vit import VisionTransformer

HEAD_WIDTH = 64  # of every head of every released vision transformer


def read_encoder(path: str | Path) -> VisionTransformer:
    """A vision transformer built as a file's weights need it, with these weights.

    Everything that :func:`dino_tutorial.models.load_weights` reads will do: checkpoints of DINO
    and DINOv2, timm's files, those of Hugging Face's transformers, this package's own. Weights do
    not tell the number of attention heads. Files that this package writes note it; for others it
    is the width over 64, as in all released models.

    Returns:
        the model, in evaluation mode.

    Raises:
        UserError: the file cannot be read, or its weights are of no such transformer.
    """
    path = Path(path)
    state = flat_blocks(read_state(path))
    noted = _notes(path)
    source = _source(state, noted)
    try:
        model = VisionTransformer(**_architecture(state, source, noted, path))
    except UserError as error:
        if str(error).startswith(str(path)):
            raise
        raise UserError(
            f"{path} asks for a transformer that cannot be built ({error}): name a file of another"
        ) from None
    return fill(model, state, source, str(path)).eval()


def _notes(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; nothing for other files, and for damaged ones."""
    try:
        with safe_open(path, "pt") as file:
            return notes_of(file.metadata())
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return {}


def _source(state: dict[str, Tensor], noted: dict[str, str]) -> str:
    """Whose names these are, and so how position embeddings reach another size."""
    positions = state.get("pos_embed")
    of_patches_alone = positions is not None and _is_square(positions.shape[1])
    if "reg_token" in state or of_patches_alone:
        return "timm"
    return "native" if "num_heads" in noted else "dinov2"


def _architecture(
    state: dict[str, Tensor], source: str, noted: dict[str, str], path: Path
) -> dict[str, Any]:
    """Arguments of the :class:`VisionTransformer` that these weights are for."""
    heads = noted.get("num_heads")
    _check_is_known(state, path)
    dim = state["cls_token"].shape[-1]
    if heads is None and dim % HEAD_WIDTH:
        raise UserError(
            f"{path} does not say how many attention heads its width of {dim} is shared by: name "
            f"the run's folder, or a file that export made"
        )
    if heads is not None and not str(heads).isdecimal():
        raise UserError(f"{path} notes {heads!r:.40} attention heads: name a file that is whole")
    registers = state.get("register_tokens", state.get("reg_token"))
    extra = 0 if registers is None else registers.shape[1]
    patches = state["pos_embed"].shape[1]
    if source == "timm" and not _is_square(patches):
        patches -= extra
    patches -= 0 if _is_square(patches) else 1
    side = math.isqrt(patches)
    if side * side != patches:
        raise UserError(
            f"{path} has position embeddings for {patches} patches, which are no square: it cannot "
            f"be told for which image size it is"
        )
    stem = _stem(state, noted)
    return {
        "img_size": side * stem["patch_size"],
        "embed_dim": dim,
        "depth": sum(name.startswith("blocks.") and name.endswith(".norm1.bias") for name in state),
        "num_heads": dim // HEAD_WIDTH if heads is None else int(heads),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "layer_scale_init": 1.0 if "blocks.0.ls1.gamma" in state else None,
        "num_register_tokens": extra,
        **stem,
        **_feed_forward(state, dim),
    }


def _check_is_known(state: dict[str, Tensor], path: Path) -> None:
    """Say what a file holds that is no vision transformer of this package's kind."""
    if any("rope" in name for name in state) or ("cls_token" in state and "pos_embed" not in state):
        raise UserError(
            f"{path} has no learned position embeddings: encoders with rotary ones, such as "
            f"DINOv3's, are not read from files; name weights of DINO or DINOv2, or DINOv3's by "
            f"their released name, such as dinov3_vits16"
        )
    stem = "convs.0" if "patch_embed.convs.0.weight" in state else "proj"
    second = "w3" if "blocks.0.mlp.w3.weight" in state else "fc2"
    first = {"w3": "w12", "fc2": "fc1"}[second]
    dimensions = {"cls_token": 3, "pos_embed": 3, f"patch_embed.{stem}.weight": 4}
    dimensions |= {f"blocks.0.mlp.{layer}.weight": 2 for layer in (first, second)}
    dimensions |= {name: 3 for name in ("register_tokens", "reg_token") if name in state}
    for name, number in dimensions.items():
        if name not in state or state[name].ndim != number:
            raise UserError(
                f"{path} holds no vision transformer (there is no {name} of {number} dimensions): "
                f"name a file of one, or for a residual network the folder of its run"
            )


def _stem(state: dict[str, Tensor], noted: dict[str, str]) -> dict[str, Any]:
    """Weights do not tell one convolutional stem from another; without a note there was one."""
    steps = sum(name.startswith("patch_embed.convs.") and name.endswith("weight") for name in state)
    if steps:
        channels = state["patch_embed.convs.0.weight"].shape[1]
        return {"patch_size": 2**steps, "in_chans": channels, "stem": noted.get("stem", "conv")}
    _, channels, _, patch = state["patch_embed.proj.weight"].shape
    return {"patch_size": patch, "in_chans": channels}


def _feed_forward(state: dict[str, Tensor], dim: int) -> dict[str, Any]:
    """The kind of the feed-forward layers and their ratio; timm calls gated ones as others."""
    ours = "blocks.0.mlp.w12.weight" in state
    first, last = ("w12", "w3") if ours else ("fc1", "fc2")
    hidden = state[f"blocks.0.mlp.{last}.weight"].shape[1]
    if state[f"blocks.0.mlp.{first}.weight"].shape[0] == 2 * hidden:
        usual = (int(4 * dim * 2 / 3) + 7) // 8 * 8  # as SwiGLU has it
        return {
            "ffn": "swiglu",
            "mlp_ratio": 4.0 if hidden == usual else (1.5 * hidden + 0.5) / dim,
        }
    return {"mlp_ratio": 4.0 if hidden == 4 * dim else (hidden + 0.5) / dim}


def _is_square(n: int) -> bool:
    return math.isqrt(n) ** 2 == n
