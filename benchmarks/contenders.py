"""The DINO training step, three times: this package, the reference's clone, lightly.

Each builds the same vision transformer (same width, depth, patch), the same head and the same
crops, and offers ``augment()`` and ``step(views)``. The reference's classes and functions are
imported from the clone that the user names; its loop is repeated here call by call, because it
asks for CUDA by name and is timed on the CPU too.
"""

import contextlib
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

MOMENTUM, LR, WEIGHT_DECAY, CLIP = 0.996, 5e-4, 0.04, 3.0


@dataclass(frozen=True)
class Setting:
    """What is trained: sizes in pixels, widths in features."""

    width: int = 192
    depth: int = 4
    heads: int = 3
    patch: int = 4
    global_size: int = 32
    local_size: int = 16
    n_local: int = 6
    source_size: int = 32
    batch: int = 64
    out_dim: int = 1024
    bf16: bool = False
    device: str = "cpu"
    compiled: bool = False  # ours alone

    def images(self) -> Tensor:
        """uint8 (B, 3, S, S) noise with structure at every scale."""
        from augmentation import smooth_noise

        return smooth_noise(self.batch, self.source_size)

    def pictures(self) -> list[Image.Image]:
        return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in self.images()]

    def autocast(self):
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    def placed(self, views: list[Tensor]) -> list[Tensor]:
        return [view.to(self.device, non_blocking=True) for view in views]


class Ours:
    """The step as ``dino_tutorial.training.loop`` makes it."""

    def __init__(self, setting: Setting):
        from dino_tutorial.methods.dino import DINO, DINOSettings
        from dino_tutorial.models import VisionTransformer
        from dino_tutorial.training import param_groups
        from dino_tutorial.training.optim import build_optimizer, clip_gradients
        from dino_tutorial.views import Augment, dino_views

        s = self.setting = setting
        torch.manual_seed(0)
        encoder = VisionTransformer(s.global_size, s.patch, s.width, s.depth, s.heads)
        self.method = DINO(encoder, DINOSettings(out_dim=s.out_dim)).train().to(s.device)
        self.augmentation = Augment(dino_views(s.global_size, s.local_size, s.n_local))
        if s.compiled:
            self.augmentation.compile()
            for network in self.method.networks:
                network.compile()
        groups = param_groups(self.method, WEIGHT_DECAY)
        self.optimizer = build_optimizer("adamw", groups, LR)
        self.parameters = [p for group in groups for p in group["params"]]
        self.clip = clip_gradients
        self.values = {"momentum": MOMENTUM, "teacher_temp": 0.04}
        self.source = s.images().to(s.device)
        self.generator = torch.Generator().manual_seed(0)

    def augment(self) -> list[Tensor]:
        s = self.setting
        draw = self.augmentation.sample(s.batch, s.source_size, s.source_size, self.generator)
        return self.augmentation.apply(self.source, draw)

    def step(self, views: list[Tensor]) -> None:
        with self.setting.autocast():
            loss = self.method(views, self.values, measure=False)["loss"]
        loss.backward()
        self.clip_and_average()

    def clip_and_average(self) -> None:
        self.clip(self.parameters, CLIP, "parameter")
        self.method.before_step(0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(self.values)


class Reference:
    """facebookresearch/dino from a clone; only ``.cuda()`` calls are left out."""

    def __init__(self, setting: Setting, clone: Path):
        main_dino, utils, vits = _import_clone(clone)
        s = self.setting = setting
        torch.manual_seed(0)

        def network():
            vit = vits.VisionTransformer(
                img_size=[s.global_size],
                patch_size=s.patch,
                embed_dim=s.width,
                depth=s.depth,
                num_heads=s.heads,
                mlp_ratio=4,
                qkv_bias=True,
                norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
            )
            return utils.MultiCropWrapper(vit, vits.DINOHead(s.width, s.out_dim)).to(s.device)

        self.utils = utils
        self.student, self.teacher = network(), network()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.loss = main_dino.DINOLoss(s.out_dim, 2 + s.n_local, 0.04, 0.04, 0, 100).to(s.device)
        self.optimizer = torch.optim.AdamW(utils.get_params_groups(self.student), lr=LR)
        self.transform = main_dino.DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), s.n_local)
        self._resize_crops()
        self.source = s.pictures()

    def _resize_crops(self) -> None:
        """The clone fixes 224 and 96 pixels in the code; the setting may ask for others."""
        s, t = self.setting, self.transform
        for pipeline, size in (
            (t.global_transfo1, s.global_size),
            (t.global_transfo2, s.global_size),
            (t.local_transfo, s.local_size),
        ):
            pipeline.transforms[0].size = (size, size)

    def augment(self) -> list[Tensor]:
        crops = [self.transform(picture) for picture in self.source]
        return [torch.stack(views) for views in zip(*crops, strict=True)]

    def step(self, views: list[Tensor]) -> None:
        views = self.setting.placed(views)
        with self.setting.autocast():
            teacher_output = self.teacher(views[:2])
            student_output = self.student(views)
            loss = self.loss(student_output, teacher_output, 0)
        if not math.isfinite(loss.item()):
            raise FloatingPointError("the reference's loss is not finite")
        self.optimizer.zero_grad()
        loss.backward()
        self.clip_and_average()
        loss.item()  # its log reads the loss once more

    def clip_and_average(self) -> None:
        self.utils.clip_gradients(self.student, CLIP)
        self.utils.cancel_gradients_last_layer(0, self.student, 1)
        self.optimizer.step()
        with torch.no_grad():
            pairs = zip(self.student.parameters(), self.teacher.parameters(), strict=True)
            for student, teacher in pairs:
                teacher.data.mul_(MOMENTUM).add_((1 - MOMENTUM) * student.detach().data)


class Lightly:
    """lightly's building blocks, put together as its DINO example does, timm's ViT inside."""

    def __init__(self, setting: Setting):
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import update_momentum
        from lightly.transforms.dino_transform import DINOTransform
        from timm.models.vision_transformer import VisionTransformer

        s = self.setting = setting
        torch.manual_seed(0)

        def network():
            vit = VisionTransformer(
                img_size=s.global_size,
                patch_size=s.patch,
                embed_dim=s.width,
                depth=s.depth,
                num_heads=s.heads,
                num_classes=0,
                dynamic_img_size=True,
            )
            head = DINOProjectionHead(s.width, 2048, 256, s.out_dim, freeze_last_layer=1)
            return nn.Sequential(vit, head).to(s.device)

        self.student, self.teacher = network(), network()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.loss = DINOLoss(s.out_dim).to(s.device)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=LR, weight_decay=WEIGHT_DECAY
        )
        self.update_momentum = update_momentum
        self.transform = DINOTransform(
            global_crop_size=s.global_size,
            local_crop_size=s.local_size,
            n_local_views=s.n_local,
            cj_strength=0.5,
        )
        self.source = s.pictures()

    def augment(self) -> list[Tensor]:
        crops = [self.transform(picture) for picture in self.source]
        return [torch.stack(views) for views in zip(*crops, strict=True)]

    def step(self, views: list[Tensor]) -> None:
        views = self.setting.placed(views)
        self.update_momentum(self.student, self.teacher, m=MOMENTUM)
        with self.setting.autocast():
            with torch.no_grad():
                teacher_output = [self.teacher(view) for view in views[:2]]
            student_output = [self.student(view) for view in views]
            loss = self.loss(teacher_output, student_output, epoch=0)
        loss.backward()
        self.student[1].cancel_last_layer_gradients(current_epoch=0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def build(name: str, setting: Setting, clone: Path | None):
    if name == "ours":
        return Ours(setting)
    if name == "lightly":
        return Lightly(setting)
    if clone is None:
        raise SystemExit("name a clone of facebookresearch/dino with --dino FOLDER")
    return Reference(setting, clone)


def _import_clone(clone: Path):
    """The clone's modules; its loss averages over processes, so one process makes a group."""
    if not (clone / "main_dino.py").exists():
        raise SystemExit(f"{clone} is not a clone of facebookresearch/dino: it has no main_dino.py")
    sys.path.insert(0, str(clone))
    import main_dino
    import utils
    import vision_transformer as vits

    if not dist.is_initialized():
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return main_dino, utils, vits
