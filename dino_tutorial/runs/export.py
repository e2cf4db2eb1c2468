"""`dino-tutorial export`: a run's backbone in the form that other programs read."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch

from dino_tutorial.errors import UserError
from dino_tutorial.files import kind_of, replacing, user_path
from dino_tutorial.models import VisionTransformer, to_timm
from dino_tutorial.models.released import timm_arguments
from dino_tutorial.runs.folder import Run, save_backbone


def export(run: Run, form: str, path: Path) -> str:
    """Write the backbone and say in one sentence how to read it.

    Args:
        run: a finished run.
        form: ``safetensors`` (this package's names), ``timm`` (timm's names, in safetensors) or
            ``onnx`` (images at the run's global size, any number, normalised -> features (B, D)).
        path: the file to write, ending in ``.safetensors`` or ``.onnx``.

    Raises:
        UserError: the encoder has no such form, or the file cannot be written.
    """
    path = user_path(path)
    encoder = run.encoder()
    if form == "timm" and not isinstance(encoder, VisionTransformer):
        raise UserError(f"{run.folder} holds a {run.config.model.arch}: only ViTs go to timm")
    ending = ".onnx" if form == "onnx" else ".safetensors"
    if path.suffix != ending:
        raise UserError(f"{path} has to end in {ending}: give --out such a name")
    if kind_of(path.parent) != "folder":
        raise UserError(f"there is no folder {path.parent}: make it first")
    if kind_of(path) == "folder":
        raise UserError(f"{path} is a folder: name a file with --out")
    if form == "onnx":
        size = run.config.views.global_size
        _write_onnx(encoder, size, path)
        return f"{path}: 'images' (B, 3, {size}, {size}), normalised -> 'features' (B, D)"
    if form == "safetensors":
        save_backbone(path, encoder)
        return f"{path}: load it with dino_tutorial.models.load_weights(model, path, 'native')"
    assert isinstance(encoder, VisionTransformer)  # see above: form is timm
    model = to_timm(encoder)
    save_backbone(path, model)
    arguments = ", ".join(f"{name}={value!r}" for name, value in timm_arguments(encoder).items())
    return f"{path}: the state of a timm.models.VisionTransformer({arguments})"


def _write_onnx(encoder: torch.nn.Module, size: int, path: Path) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("ONNX needs more: pip install 'dino-tutorial[export]'") from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            encoder,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes={"x": {0: torch.export.Dim("B")}},
        )
    assert program is not None  # which is what dynamo=True gives
    with replacing(path) as temporary:
        program.save(temporary)
