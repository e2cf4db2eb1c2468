"""What a file of weights says of itself: a hash of its tensors, and what they do not tell."""

import json
from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor

NOTES = "dino_tutorial"  # the key of our own notes in a safetensors file


def with_notes(**notes: str) -> dict[str, str]:
    """Metadata of a safetensors file that holds these notes.

    Under one key, because the order of several is drawn anew each time, and files of equal weights
    are to be equal.
    """
    return {NOTES: json.dumps(notes, sort_keys=True)}


def notes_of(metadata: dict[str, str] | None) -> dict[str, str]:
    """What :func:`with_notes` noted; of older files what they say under single keys."""
    metadata = metadata or {}
    try:
        notes = json.loads(metadata.get(NOTES, "{}"))
    except ValueError:
        notes = {}
    return metadata | notes if isinstance(notes, dict) else metadata


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, in the order of the names."""
    total = sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def is_changed(state: Mapping[str, Tensor], notes: Mapping[str, str]) -> bool:
    """Whether tensors are not those that the notes of their file were written for."""
    return notes.get("sha256") not in (None, digest(state))
