"""Methods by name."""

from dino_tutorial.errors import UserError
from dino_tutorial.methods.base import Method
from dino_tutorial.methods.byol import BYOL
from dino_tutorial.methods.dino import DINO
from dino_tutorial.methods.dinov2 import DINOv2
from dino_tutorial.methods.distill import Distill
from dino_tutorial.methods.jigsaw import Jigsaw
from dino_tutorial.methods.moco import MoCo
from dino_tutorial.methods.rotation import Rotation
from dino_tutorial.methods.simclr import SimCLR
from dino_tutorial.methods.supervised import Supervised
from dino_tutorial.methods.swav import SwAV
from dino_tutorial.options import takes

#: The classes of all methods by name, those of :func:`register` included.
METHODS: dict[str, type[Method]] = {
    "rotation": Rotation,
    "jigsaw": Jigsaw,
    "simclr": SimCLR,
    "moco": MoCo,
    "swav": SwAV,
    "byol": BYOL,
    "dino": DINO,
    "dinov2": DINOv2,
    "distill": Distill,
    "supervised": Supervised,
}


@takes()
def register(name: str, method: type[Method]) -> None:
    """Make a method known by a name.

    A class of the same name replaces it, as when a notebook's cell is run again.

    Raises:
        UserError: the name is not one word of lower-case letters, digits and underscores, or
            belongs to another class.
    """
    if not (name.isidentifier() and name == name.lower()):
        raise UserError(f"'{name}' cannot name a method: use lower-case letters and digits")
    if name in METHODS and METHODS[name].__qualname__ != method.__qualname__:
        raise UserError(f"'{name}' names {METHODS[name].__qualname__} already: choose another name")
    METHODS[name] = method


@takes()
def title_of(name: str) -> str:
    """What figures and reports call a method."""
    method = _known(name)
    return method.title or method.__name__


@takes()
def help_of(name: str) -> str:
    """The first sentence that a method says of itself."""
    return (_known(name).__doc__ or "").strip().partition("\n")[0]


def _known(name: str) -> type[Method]:
    if name not in METHODS:
        raise UserError(f"there is no method '{name}': use one of {', '.join(METHODS)}")
    return METHODS[name]
