"""One training seen at many of its steps: attention, components, prototypes, k-NN.

python tools/record_training.py    # writes data/results/dino-patterns-in-steps

The run is that of the command in `command.txt`. At each of the kept steps its teacher looks at the
same scenes; what it sees is stored in frames.npz, small enough for a page.
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dino_tutorial import configure
from dino_tutorial.datasets.scenes import CLASSES, SceneDataset
from dino_tutorial.evaluation import (
    attention_jaccard,
    cls_attention,
    component_colors,
    normalize,
    patch_pca,
)
from dino_tutorial.files import make_folder, write_json, write_text
from dino_tutorial.methods import DINO
from dino_tutorial.runs import Config, build_method
from dino_tutorial.runs.environment import describe_environment
from dino_tutorial.runs.images import Images
from dino_tutorial.training.loop import Trainer
from dino_tutorial.views import Augment

INTO = Path(__file__).parents[1] / "data" / "results" / "dino-patterns-in-steps"
COMMAND = "dino-tutorial train dino --data patterns --preset laptop --seed 0"
LOGGED = 25  # every so many steps a row, and a chance to keep the teacher
KEPT = (0, 50, 100, 150, 200, 250, 300, 350, 400, 500, 600, 700, 800, 1000, 1200, 1400, 1600, 1871)
SHOWN, SIDE, PATCH = 5, 96, 8  # scenes, the first of so many kinds; pixels of each; of a patch
GRID = (SIDE // PATCH, SIDE // PATCH)
BLOCKS = (0, -1)  # whose attention is shown: the first, and the last, as in the paper
PER_KIND = 5  # prototypes shown of each kind
FOR_PROTOTYPES, FOR_MASKS = 1000, 150  # scenes


def main() -> None:
    torch.set_num_threads(1)
    often = {"train.log_every": LOGGED, "train.eval_every": LOGGED}
    config = configure("dino", "patterns", "laptop", often | {"train.checkpoint_every": 10**6})
    trainer, states = trained(config)
    write(config, trainer.rows, states, trainer.seconds)


def trained(config: Config) -> tuple[Trainer, dict[int, dict[str, Tensor]]]:
    """The run, and the state of its method at each of the kept steps."""
    method = build_method(config)
    states: dict[int, dict[str, Tensor]] = {}

    def keep() -> dict[str, float]:
        if trainer.step in KEPT:
            states[trainer.step] = deepcopy(method.state_dict())
        return {}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            method=method,
            augment=Augment(method.view_specs(config.views)),
            dataset=Images.open(config).train,
            optim=config.optim,
            train=config.train,
            seed=config.seed,
            device=torch.device("cpu"),
            folder=Path(folder),
            evaluate=keep,
        )
        trainer.fit()
    return trainer, states


@torch.inference_mode()
def write(
    config: Config, rows: list[dict], states: dict[int, dict[str, Tensor]], seconds: float
) -> None:
    method = build_method(config)
    scenes = SceneDataset("test", SIDE, FOR_MASKS, look="pattern")
    first = torch.tensor([int((scenes.labels == kind).nonzero()[0]) for kind in range(SHOWN)])
    images = scenes.images(first)
    watch = Images.open(config).watch(method.encoder, config, torch.device("cpu"))
    assert watch is not None
    size = config.views.global_size
    small = {s: SceneDataset(s, size, FOR_PROTOTYPES, look="pattern") for s in ("train", "test")}
    attention, patches, prototypes, numbers = [], [], [], []
    for state in states.values():
        method.load_state_dict(state)
        prototypes.append(shares_by_kind(method, small, config.objective.teacher_temp))
        method.eval()
        features = method.encoder.forward_features(normalize(images)).patches
        patches.append(features - features.mean(dim=1, keepdim=True))
        attention.append(looks(method.encoder.get_attention, images))
        numbers.append(scores(method.encoder.get_attention, scenes) | watch())
    make_folder(INTO)
    np.savez_compressed(
        INTO / "frames.npz",
        images=images.permute(0, 2, 3, 1).numpy(),  # (n, H, W, 3)
        attention=rounded(torch.stack(attention)),  # (steps, blocks, n, h, w)
        components=rounded(255 * components(patches)),  # (steps, n, h, w, 3)
        prototypes=chosen(prototypes),  # (steps, kinds, prototypes)
    )
    summary = {
        "data": "patterns",
        "steps": list(states),
        "kinds": list(CLASSES),
        "seconds": round(seconds),
        "parameters": sum(p.numel() for p in method.encoder.parameters()),
        "scores": numbers,
        "rows": [{name: row[name] for name in LOGGED_NUMBERS} for row in rows],
    }
    write_json(INTO / "summary.json", summary)
    write_text(INTO / "command.txt", "python tools/record_training.py\n")
    write_json(INTO / "environment.json", describe_environment(torch.device("cpu")))


LOGGED_NUMBERS = ("step", "loss", "ln_k", "teacher_entropy", "batch_entropy", "feature_spread")


def looks(attend: Callable[..., Tensor], images: Tensor) -> Tensor:
    """The mean head of each block in equal shares, 16 for each: (blocks, n, h, w), up to 255."""
    maps = [cls_attention(attend(normalize(images), block), GRID).mean(1) for block in BLOCKS]
    times_equal = torch.stack(maps).unflatten(-1, GRID) * GRID[0] * GRID[1]
    return (16 * times_equal).clamp(max=255)


def scores(attend: Callable[..., Tensor], scenes: SceneDataset) -> dict[str, float]:
    """How well the mean head of each block covers the object, J."""
    pixels, truth = normalize(scenes.images()), scenes.masks()
    found = [attention_jaccard(attend(pixels, block), GRID, truth) for block in BLOCKS]
    first, last = (round(one["mean_head"].mean().item(), 4) for one in found)
    return {"j_first_block": first, "j_last_block": last}


def components(patches: list[Tensor]) -> Tensor:
    """Colours (steps, n, h, w, 3) of three principal components at each step.

    Each step has components of its own, whose order and signs are arbitrary. Beginning with the
    last step, they are turned, as a rigid body, to be as much like those of the next as they can.
    """
    turned = [patch_pca(patches[-1], foreground=False).flatten(0, 1)]
    for step in reversed(patches[:-1]):
        ours = patch_pca(step, foreground=False).flatten(0, 1)  # (n · N, 3)
        left, _, right = torch.linalg.svd(ours.T @ turned[0])
        turned.insert(0, ours @ left @ right)
    colours = torch.stack([component_colors(one) for one in turned])
    return colours.unflatten(1, (SHOWN, *GRID))


def shares_by_kind(
    method: DINO, splits: dict[str, SceneDataset], temperature: float
) -> dict[str, Tensor]:
    """The teacher's mean probabilities for scenes of each kind, (kinds, K), by split."""
    method.train()  # the head normalises over the batch, as it does in training
    found = {}
    for split, scenes in splits.items():
        _, logits = method.teacher([normalize(scenes.images())[None]])
        probabilities = method.loss.probabilities(logits, temperature)[0]  # (scenes, K)
        found[split] = torch.stack(
            [probabilities[scenes.labels == kind].mean(0) for kind in range(len(CLASSES))]
        )
    return found


def chosen(prototypes: list[dict[str, Tensor]]) -> np.ndarray:
    """Test scenes' shares of the prototypes that training scenes use most at the end.

    A prototype belongs to the kind that has most of it; of each kind the first few are taken.
    """
    at_end = prototypes[-1]["train"]
    owner = at_end.argmax(dim=0)
    columns = [
        torch.where(owner == kind, at_end[kind], -1.0).topk(PER_KIND).indices
        for kind in range(len(CLASSES))
    ]
    shown = torch.stack([step["test"][:, torch.cat(columns)] for step in prototypes])
    return shown.numpy().astype("float16")


def rounded(values: Tensor) -> np.ndarray:
    return values.round().to(torch.uint8).numpy()


if __name__ == "__main__":
    main()
