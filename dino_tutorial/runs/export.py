"""`dino-tutorial export`: a run's backbone in the form that other programs read."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.files import as_json, kind_of, replace_folder, replacing, unwritable, user_path
from dino_tutorial.models import VisionTransformer
from dino_tutorial.models.elsewhere import (
    Folder,
    OnnxTransformer,
    huggingface_folder,
    timm_folder,
)
from dino_tutorial.runs.folder import Run, save_backbone

FORMS = ("safetensors", "timm", "hf", "onnx")
ENDINGS = {"safetensors": ".safetensors", "onnx": ".onnx"}  # the other forms are folders


def export(run: Run, form: str, path: Path) -> str:
    """Write the backbone and say in one sentence how to read it.

    Args:
        run: a finished run.
        form: ``safetensors`` (this package's names), ``onnx`` (images of any size, normalised ->
            features (B, D) and patches (B, N, D)), ``timm`` (a folder for its ``local-dir:``) or
            ``hf`` (a folder for transformers' Dinov2Model or Dinov2WithRegistersModel).
        path: the file to write, ending in ``.safetensors`` or ``.onnx``; or the folder.

    Raises:
        UserError: the encoder has no such form, or it cannot be written.
    """
    path = user_path(path)
    encoder = run.encoder()
    if form in ("timm", "hf"):
        if not isinstance(encoder, VisionTransformer):
            raise UserError(
                f"{run.folder} holds a {run.config.model.arch}: only vision transformers go to "
                f"{form}; use --to safetensors or onnx"
            )
        folder = timm_folder(encoder) if form == "timm" else huggingface_folder(encoder)
        _write_folder(path, folder)
        return folder.told.format(path=path)
    _check_file(path, ENDINGS[form])
    if form == "safetensors":
        save_backbone(path, encoder)
        return f"{path}: load it with dino_tutorial.models.load_weights(model, path, 'native')"
    return f"{path}: {_write_onnx(encoder, run.config.views.global_size, path)}"


def _check_file(path: Path, ending: str) -> None:
    if path.suffix != ending:
        raise UserError(f"{path} has to end in {ending}: give --out such a name")
    if kind_of(path.parent) != "folder":
        raise UserError(f"there is no folder {path.parent}: make it first")
    if kind_of(path) == "folder":
        raise UserError(f"{path} is a folder: name a file with --out")


def _write_folder(path: Path, folder: Folder) -> None:
    """Write a folder, over an older one of the same kind or none.

    Raises:
        UserError: there is something else in its place, or it cannot be written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in folder.weights.items()}
    files = {name: as_json(content) for name, content in folder.configs.items()}
    files["model.safetensors"] = save(weights, {"format": "pt"})
    kind = kind_of(path)
    if kind and kind != "folder":
        raise UserError(f"{path} is a file: name a folder with --out")
    try:
        there = {one.name for one in path.iterdir()} if kind else set()
    except OSError as error:
        raise unwritable(path, error) from error
    if others := there - files.keys():
        raise UserError(f"{path} holds {min(others)} too: name a new folder with --out")
    replace_folder(path, files)


def _write_onnx(encoder: nn.Module, size: int, path: Path) -> str:
    """Write the file, and say what goes in and comes out."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("ONNX needs more: pip install 'dino-tutorial[export]'") from None
    shapes: dict[int, object] = {0: torch.export.Dim("B")}
    outputs, module = ["features"], encoder
    told = f"'images' (B, 3, {size}, {size}), normalised -> 'features' (B, D)"
    if isinstance(encoder, VisionTransformer):
        patch = encoder.patch_size
        shapes |= {2: patch * torch.export.Dim("rows"), 3: patch * torch.export.Dim("columns")}
        outputs, module = ["features", "patches"], OnnxTransformer(encoder).eval()
        told = (
            f"'images' (B, 3, H, W), normalised, sides multiples of {patch} -> 'features' (B, D), "
            f"'patches' (B, N, D)"
        )
    example: tuple[Tensor, ...] = (torch.zeros(2, 3, size, size),)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=(shapes,),
        )
    assert program is not None  # which is what dynamo=True gives
    with replacing(path) as temporary:
        program.save(temporary)
    return told
