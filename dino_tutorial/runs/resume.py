"""What a command means that goes on with a run: its own settings, and nothing against them."""

import os
from typing import Any

from dino_tutorial.errors import UserError
from dino_tutorial.files import user_path
from dino_tutorial.runs.config import Config, read_config
from dino_tutorial.runs.folder import find_folder


def is_started(config: Config) -> bool:
    """Whether there is a run of this configuration to go on with, one without a checkpoint too.

    All processes of a training see the same, as long as they look before they are joined.
    """
    try:
        find_folder(config, resume=True)
    except UserError:  # none, or a place that cannot be read, which the start will say
        return False
    return True


def is_unfinished(config: Config) -> bool:
    """Whether the newest run of this configuration lacks its last part, the report."""
    return is_started(config) and not (find_folder(config, resume=True) / "report.html").exists()


def resumed_config(
    asked: Config, data: str | None, preset: str | None, changes: dict[str, Any]
) -> Config:
    """The configuration of the run to go on with; what is not named stays as it was started.

    Args:
        asked: what the command would start, which says where the run lies.
        data, preset: as named on the command line; None where they are not.
        changes: dotted keys that are named there.

    Raises:
        UserError: there is nothing to resume, or it is of another method, data set or preset.
    """
    folder = find_folder(asked, resume=True)
    stored = read_config(folder / "config.yaml")
    if stored.method != asked.method:
        raise UserError(
            f"{folder} is a run of {stored.method}, not of {asked.method}: resume it by train "
            f"{stored.method}, or take another --name and no --resume"
        )
    if data is not None and not same_place(data, stored.source):
        raise UserError(
            f"{folder} was started on {stored.source}, not on {data}: resume it without --data, "
            f"or take another --name and no --resume"
        )
    if preset is not None and preset != stored.preset:
        raise UserError(
            f"{folder} was started with the preset {stored.preset}, not {preset}: resume it "
            f"without --preset, or take another --name and no --resume"
        )
    return stored.changed({"name": None} | changes | {"folder": asked.folder})


def same_place(one: str, two: str) -> bool:
    """Whether two names are one data set: the same word, or one folder spelled in two ways."""
    return one == two or os.path.realpath(user_path(one)) == os.path.realpath(user_path(two))
