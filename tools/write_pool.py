"""The scenes' uncurated pool as shards, to train on as it is: 20,000 images, junk and copies too.

    python tools/write_pool.py FOLDER [--data patterns]

`dino-tutorial curate --pool patterns` chooses from the same images.
"""

import argparse
from pathlib import Path

from dino_tutorial.curation.command import SCENE_SIZE, open_pool
from dino_tutorial.datasets import LOOKS, write_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--data", default="scenes", choices=LOOKS, help="what tells the kinds")
    parser.add_argument("--limit", type=int, help="at most this many images")
    options = parser.parse_args()
    images, _ = open_pool(options.data, SCENE_SIZE, options.limit)
    write_shards(images, options.folder / "train")


if __name__ == "__main__":
    main()
