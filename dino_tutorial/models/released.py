"""Released weights in, and weights out to timm."""

import argparse
import difflib
import hashlib
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.files import describe_error, open_regular, unreadable, user_path
from dino_tutorial.models.block import SwiGLU
from dino_tutorial.models.misfit import misfit
from dino_tutorial.models.notes import is_changed, notes_of
from dino_tutorial.models.vit import PatchEmbed, VisionTransformer
from dino_tutorial.options import takes

if TYPE_CHECKING:
    import timm

# torch.hub names of the released vision transformers, and what timm calls the same weights.
RELEASED = {
    "dino_vits16": "vit_small_patch16_224.dino",
    "dino_vits8": "vit_small_patch8_224.dino",
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dino_vitb8": "vit_base_patch8_224.dino",
    "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_vitl14": "vit_large_patch14_dinov2.lvd142m",
    "dinov2_vitg14": "vit_giant_patch14_dinov2.lvd142m",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitg14_reg": "vit_giant_patch14_reg4_dinov2.lvd142m",
}

# What training code wraps around an encoder's state. Averages of the student come first: where
# there is one, it is what was evaluated and released.
WRAPPERS = (
    *("method", "state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("teacher", "teacher_backbone", "momentum_backbone", "network"),
    *("model", "state_dict", "model_state_dict", "student", "student_backbone", "module"),
    *("backbone", "base_encoder", "encoder_q", "encoder", "vit", "dinov2", "dinov2_with_registers"),
)
# What compiling, sharding and checkpointing put into the names of single blocks.
INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")


AnyModule = TypeVar("AnyModule", bound=nn.Module)


@takes()
def load_weights(
    model: AnyModule, state_dict_or_path: Mapping[str, Any] | str | Path, source: str = "native"
) -> AnyModule:
    """Load an encoder's weights, whoever wrote them.

    Wrappers such as ``teacher``, ``module.`` and ``backbone.`` are taken off, heads and whatever is
    no tensor are left out, and position embeddings are from then on interpolated as the source
    does. Where a file holds a student and an average of it (``teacher``, ``state_dict_ema``,
    ``momentum_backbone``), the average is taken. This package's own ``checkpoint.pt`` gives the
    encoder that its method keeps; names of Hugging Face's transformers are translated.

    Args:
        model: the encoder to fill, built as the weights need it.
        state_dict_or_path: a state dict, or a ``.safetensors`` or ``torch.save`` file. A file is
            read as data only: code pickled into it is never run.
        source: "dino" or "dinov2" for checkpoints of these repositories, "timm", or "native" for
            this package's own, which leaves ``pos_embed_mode`` as it is.

    Returns:
        ``model``.

    Raises:
        UserError: the source is unknown, the file cannot be read, or its weights belong to another
            architecture; the sentence names what is missing, unexpected or of another shape.
    """
    if source not in CONVERTERS:
        raise UserError(f"source={source!r} is unknown: choose one of {', '.join(CONVERTERS)}")
    where = "the state dict"
    if isinstance(state_dict_or_path, Mapping):
        state = _unwrap(state_dict_or_path)
    else:
        where, state = str(state_dict_or_path), read_state(state_dict_or_path)
    if not state:
        raise UserError(f"{where} holds no state dict: names with a tensor each were expected")
    return fill(model, state, source, where)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of an encoder in a file, wrappers taken off; see :func:`load_weights`.

    Raises:
        UserError: the file cannot be read as weights.
    """
    return _unwrap(_read(user_path(path)))


def fill(model: AnyModule, state: dict[str, Tensor], source: str, where: str) -> AnyModule:
    """Give a model weights without wrappers; ``where`` they are from is for the error."""
    own = model.state_dict()
    state = CONVERTERS[source](state, own)
    if "mask_token" in own:
        state.setdefault("mask_token", own["mask_token"])  # most sources train without masks
    _check(state, own, where)
    model.load_state_dict(state)
    if source != "native" and isinstance(model, VisionTransformer):
        offset = source in ("dino", "dinov2") and "register_tokens" not in state
        model.pos_embed_mode = "offset" if offset else "antialias"
    return model


@takes()
def pretrained(name: str) -> VisionTransformer:
    """A vision transformer with the weights released for DINO or DINOv2.

    Weights are downloaded once, kept in the cache of the Hugging Face hub (``HF_HOME``), and their
    SHA-256 is compared with the published one each time.

    Args:
        name: the torch.hub name, such as "dino_vits16" or "dinov2_vits14_reg", or timm's, such as
            "vit_small_patch16_224.dino". The weights are the same; at other image sizes position
            embeddings are interpolated as the one or the other does.

    Returns:
        the model, in evaluation mode.

    Raises:
        UserError: the name is unknown, or the weights are neither cached nor within reach.
    """
    if name not in RELEASED and name not in RELEASED.values():
        raise UserError(f"no released weights are called {name!r}: choose one of {_names()}")
    donor = downloaded(RELEASED.get(name, name))
    model = load_weights(_like(donor), donor.state_dict(), "timm")
    if name in RELEASED and not model.num_register_tokens:
        model.pos_embed_mode = "offset"
    return model.eval()


@takes()
def to_timm(model: VisionTransformer) -> "timm.models.VisionTransformer":
    """A timm model with the same weights and the same outputs.

    timm interpolates position embeddings in one way. For a model with ``pos_embed_mode="offset"``
    the outputs are therefore equal at the model's own image size only.

    Raises:
        UserError: the model has a convolutional stem, which timm has not.
    """
    import timm

    if not isinstance(model.patch_embed, PatchEmbed):
        raise UserError(
            "a convolutional stem has no counterpart in timm: use stem='patch', which a run has "
            "with --set model.stem=patch"
        )
    state = model.state_dict()
    gated = isinstance(model.blocks[0].mlp, SwiGLU)
    ffn = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU} if gated else {}
    donee = timm.models.VisionTransformer(**timm_arguments(model), **ffn)
    del state["mask_token"]
    # timm gives the class token no position, so it takes it along.
    positions = state.pop("pos_embed")
    state["cls_token"] = state["cls_token"] + positions[:, :1]
    state["pos_embed"] = positions[:, 1:]
    if model.num_register_tokens:
        state["reg_token"] = state.pop("register_tokens")
    if gated:
        state = _rename(state, {".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."})
    donee.load_state_dict(state)
    return donee.train(model.training)


def timm_arguments(model: VisionTransformer) -> dict[str, Any]:
    """What ``timm.models.VisionTransformer`` is built with to hold the model's weights.

    A gated feed-forward layer needs ``mlp_layer=SwiGLUPacked`` and ``act_layer=nn.SiLU`` besides.
    """
    block = model.blocks[0]
    mlp = block.mlp
    hidden = mlp.w12.out_features if isinstance(mlp, SwiGLU) else mlp.fc1.out_features
    return {
        "img_size": tuple(side * model.patch_size for side in model.grid_size),
        "patch_size": model.patch_size,
        "in_chans": model.in_chans,
        "num_classes": 0,
        "global_pool": "token",
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": (hidden + 0.5) / model.embed_dim,  # timm rounds the product down
        "qkv_bias": block.attn.qkv.bias is not None,
        "init_values": 1.0 if "ls1.gamma" in block.state_dict() else None,
        "reg_tokens": model.num_register_tokens,
        "no_embed_class": True,
        "dynamic_img_size": True,
    }


def _read(path: Path) -> Mapping[str, Any]:
    """The contents of a checkpoint file, without running anything in it."""
    damaged = False
    try:
        open_regular(path).close()  # a pipe would keep us waiting
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                damaged = is_changed(content, notes_of(file.metadata()))
        else:  # DINO's checkpoints hold the arguments of their run, which cannot do harm
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: check the path of the weights") from None
    except PermissionError:
        raise unreadable(path) from None
    except pickle.UnpicklingError:
        if kind := _no_weights(path):
            raise UserError(
                f"{path} is {kind} and no file of weights: name another, or download it again, in "
                f"full"
            ) from None
        raise UserError(
            f"{path} is not a file of plain tensors; what else it holds could run code, so it was "
            f"not loaded: save its state dict with safetensors or torch.save first"
        ) from None
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise UserError(
            f"{path} cannot be read as weights ({describe_error(error)}): name a .safetensors file "
            f"or one of torch.save, whole and yours to read"
        ) from None
    if damaged:
        raise UserError(f"{path} is damaged (its checksum is wrong): copy or export it again")
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a {type(content).__name__} instead of a state dict: name a file of what "
            f"a model's state_dict() returns"
        )
    return content


def _no_weights(path: Path) -> str | None:
    """What lies in place of weights, left by a download that went wrong or named by mistake; None
    if that is not known."""
    with path.open("rb") as file:
        start = file.read(200).lstrip().lower()
    if start.startswith((b"\x89png", b"\xff\xd8\xff", b"gif8", b"riff", b"bm")):
        return "an image"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if start.startswith((b"{", b"[")):
        return "a text (JSON)"
    try:
        return "a text" if start.decode("utf-8").replace("\n", " ").isprintable() else None
    except UnicodeDecodeError:
        return None


def suggest(name: str) -> str:
    """Which released model a name that is none could mean, as the end of a sentence; or nothing."""
    known = [*RELEASED, *RELEASED.values()]
    near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.75)
    return f"; did you mean the released {' or '.join(near)}?" if near else ""


def _unwrap(state: Mapping[str, Any]) -> dict[str, Any]:
    """Take off each wrapper, be it a nested dict or a prefix of names, and what is no weight."""
    state = {_without_infixes(str(name)): value for name, value in state.items()}
    if any(name.startswith(HUGGING_FACE) for name in state):
        return _from_hugging_face(state)
    for name in _own_student(state) or WRAPPERS:
        inner = state.get(name)
        if not isinstance(inner, Mapping):
            prefix = name + "."
            inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if inner:
            return _unwrap(inner)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _without_infixes(name: str) -> str:
    for infix in INFIXES:
        name = name.replace(infix, "")
    return name


def _own_student(state: Mapping[str, Any]) -> tuple[str, ...]:
    """The wrapper of MoCo's student, in a checkpoint of this package: there the teacher only
    makes keys, and the student is the encoder that is kept."""
    moco = "queue.entries" in state and any(name.startswith("teacher.") for name in state)
    return ("student",) if moco else ()


HUGGING_FACE = "embeddings.patch_embeddings."  # how transformers' vision transformers begin
FROM_HUGGING_FACE = (  # parts of names there and here, replaced one after the other
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("embeddings.", ""),
    ("encoder.layer.", "blocks."),
    ("attention.output.dense.", "attn.proj."),
    ("attention.attention.", "attn."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("mlp.weights_in.", "mlp.w12."),
    ("mlp.weights_out.", "mlp.w3."),
    ("layernorm.", "norm."),
)


def _from_hugging_face(state: Mapping[str, Any]) -> dict[str, Any]:
    """Names of transformers' ViTModel and Dinov2Model; queries, keys and values become one."""
    renamed: dict[str, Any] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or name.startswith(("pooler.", "classifier.")):
            continue
        for old, new in FROM_HUGGING_FACE:
            name = name.replace(old, new, 1)
        renamed[name] = value
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("query", "qkv")] = torch.cat(parts)
    if "mask_token" in renamed:
        renamed["mask_token"] = renamed["mask_token"].flatten(0, -2)
    return renamed


def _from_native(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


def _from_dinov2(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    return flat_blocks(state)


def flat_blocks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks may come in chunks for sharded training: blocks.CHUNK.INDEX becomes blocks.INDEX."""
    return {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", k): v for k, v in state.items()}


def _from_timm(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm has other names, and positions for all, one or none of the tokens without a patch."""
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
    if "blocks.0.mlp.w12.weight" in own:
        state = _rename(state, {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."})
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return state
    extra = positions.shape[1] - (own["pos_embed"].shape[1] - 1)
    if extra == 0:
        none = positions.new_zeros(1, 1, positions.shape[2])
        state["pos_embed"] = torch.cat([none, positions], dim=1)
    elif (
        getattr(state.get("register_tokens"), "ndim", 0) == 3
        and extra == 1 + state["register_tokens"].shape[1]
    ):
        state["register_tokens"] = state["register_tokens"] + positions[:, 1:extra]
        state["pos_embed"] = torch.cat([positions[:, :1], positions[:, extra:]], dim=1)
    return state


CONVERTERS = {
    "dino": _from_native,  # the names are the same
    "dinov2": _from_dinov2,
    "timm": _from_timm,
    "native": _from_native,
}


def _rename(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


def _check(state: dict[str, Tensor], own: dict[str, Tensor], where: str) -> None:
    """Raise one sentence about all that keeps ``state`` from fitting the model."""
    told = misfit(state, own)
    if not told:
        _check_values(state, own, where)
        return
    hint = ""
    if "pos_embed (" in told and state["pos_embed"].ndim == 3:
        patches = state["pos_embed"].shape[1] - 1
        side = math.isqrt(patches)
        if side * side == patches:  # else the names of another source, or not a square
            hint = f" (its position embeddings are for {side} x {side} patches)"
    raise UserError(
        f"{where} does not fit the model: {told}; build the model with the "
        f"architecture, patch and image size of the weights{hint} and the right source"
    )


def _check_values(state: dict[str, Tensor], own: dict[str, Tensor], where: str) -> None:
    """Refuse what has the right names and shapes, and is no trained network."""
    for name, tensor in state.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise UserError(
                f"{where} holds {name} as {str(tensor.dtype).removeprefix('torch.')}: name weights "
                f"in floating point, not quantised ones"
            )
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise UserError(
                f"{where} holds NaN or infinity in {name}, for its training diverged or the file "
                f"is damaged: name other weights"
            )


def _names() -> str:
    return ", ".join([*RELEASED, *RELEASED.values()])


def _download(repository: str, filename: str) -> Path:
    """The path of a cached file of the Hugging Face hub, its contents checked."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = Path(hf_hub_download(repository, filename))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"the weights {repository} are not in the cache and could not be downloaded "
            f"({type(error).__name__}): connect to the internet once, or load a file that you "
            f"have with load_weights"
        ) from None
    published = path.resolve().name  # the cache calls a large file by its SHA-256
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if len(published) == 64 and published != found:
        raise UserError(
            f"{path} is damaged: its SHA-256 is {found}, not {published}; delete it and try again"
        )
    return path


def downloaded(timm_name: str) -> nn.Module:
    """timm's model of a name, with its released weights; see :func:`pretrained`."""
    import timm

    overlay = {"file": str(_download(f"timm/{timm_name}", "model.safetensors"))}
    return timm.create_model(timm_name, pretrained=True, pretrained_cfg_overlay=overlay)


def _like(donor: "timm.models.VisionTransformer") -> VisionTransformer:
    """A vision transformer that can take the weights of a timm model of DINO or DINOv2."""
    import timm

    block, dim = donor.blocks[0], donor.embed_dim
    gated = isinstance(block.mlp, timm.layers.GluMlp)
    # SwiGLU's hidden width is two thirds of what the ratio says; 4 for the released model.
    ratio = 4.0 if gated else block.mlp.fc1.out_features / dim
    return VisionTransformer(
        img_size=donor.patch_embed.img_size,
        patch_size=donor.patch_embed.patch_size[0],
        embed_dim=dim,
        depth=len(donor.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=ratio,
        layer_scale_init=None if isinstance(block.ls1, nn.Identity) else 1e-5,
        num_register_tokens=donor.num_reg_tokens,
        ffn="swiglu" if gated else "mlp",
    )
