"""The figure of the first page: scenes, where a trained encoder looks, its patches' components.

python tools/draw_first_page.py    # writes book/figures/first-page.webp
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from dino_tutorial import load_run
from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.evaluation import component_colors, normalize, patch_pca

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "data" / "checkpoints" / "dino-patterns-laptop-s0"
SIZE, SEEN, PATCH = 160, 96, 8  # pixels: a scene as it is shown, as the encoder sees it, a patch
SHOWN, GAP = 8, 8  # scenes, and the pixels between them


def heat(values: Tensor) -> Tensor:
    """(n, H, W) in [0, 1] -> (n, 3, H, W): from dark blue to yellow, light where much is."""
    stops = torch.tensor([[26, 31, 64], [58, 96, 140], [92, 172, 150], [250, 230, 90.0]]) / 255
    place = values.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().long().clamp(max=len(stops) - 2)
    share = (place - low)[..., None]
    return (stops[low] * (1 - share) + stops[low + 1] * share).permute(0, 3, 1, 2)


def enlarged(maps: Tensor) -> Tensor:
    return F.interpolate(maps, size=(SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)


def main() -> None:
    scenes = SceneDataset("test", SIZE, n=40, look="pattern")
    # The first scene of each kind, in the order of the kinds: nothing is selected by its result.
    first = torch.tensor([int((scenes.labels == kind).nonzero()[0]) for kind in range(SHOWN)])
    images = scenes.images(first)
    seen = SceneDataset("test", SEEN, n=40, look="pattern").images(first)
    encoder = load_run(RECORD).encoder().eval()
    grid = (SEEN // PATCH, SEEN // PATCH)
    with torch.inference_mode():
        pixels = normalize(seen)
        attention = encoder.get_attention(pixels)[:, :, 0, -grid[0] * grid[1] :].mean(1)
        patches = encoder.forward_features(pixels).patches
    attention = attention / attention.quantile(0.98, dim=1, keepdim=True)
    looks = heat(enlarged(attention.view(-1, 1, *grid))[:, 0])
    colors = component_colors(patch_pca(patches, n_components=3, foreground=False))
    components = enlarged(colors.view(-1, *grid, 3).permute(0, 3, 1, 2))
    opaque = torch.ones(SHOWN, 1, SIZE, SIZE)
    rows = [torch.cat((row, opaque), 1) for row in (images / 255, looks, components)]
    # Between the tiles the page shows through, be it light or dark.
    sheet = torch.cat(
        [torch.cat([F.pad(tile, (GAP // 2,) * 4) for tile in row], 2) for row in rows], 1
    )
    (ROOT / "book" / "figures").mkdir(exist_ok=True)
    to_pil_image(sheet).save(ROOT / "book" / "figures" / "first-page.webp", quality=88)


if __name__ == "__main__":
    main()
