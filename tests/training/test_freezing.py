"""A frozen backbone stays as it is, bit for bit, while the heads learn."""

import pytest
import torch
from tiny_training import trainer

from dino_tutorial.errors import UserError

FROZEN = 2
SHORT = {"train__epochs": 1, "train__batch_size": 16, "train__workers": 0}  # four steps
PROTOTYPES = {"objective__freeze_last_layer_epochs": 0}
CASES = {
    "dino": PROTOTYPES,
    "dinov2": {"optim__clip_rule": "module"} | PROTOTYPES,
    "byol": {"model__arch": "resnet10"},  # with running statistics
    "simclr": {},  # without a teacher
}


def states(method):
    """Copies of all parameters and buffers of the backbones, and of the student's head."""
    backbones = [backbone.state_dict() for backbone in method.backbones]
    return [
        {name: tensor.clone() for name, tensor in state.items()}
        for state in (*backbones, method.student.head.state_dict())
    ]


def equal(one, two) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", CASES)
def test_the_backbone_stays_and_then_learns(method, tmp_path, monkeypatch):
    changes = SHORT | CASES[method] | {"train__freeze_backbone_steps": FROZEN}
    t = trainer(method, tmp_path, optim__warmup_epochs=0, **changes)
    seen = [states(t.method)]
    after_step = type(t.method).after_step

    def kept(self, values):
        after_step(self, values)
        seen.append(states(self))

    monkeypatch.setattr(type(t.method), "after_step", kept)
    t.fit()
    assert len(seen) == 5
    *backbones, head = zip(*seen, strict=True)
    assert len(backbones) == (1 if t.method.teacher is None else 2)
    for states_of_one in backbones:
        first = states_of_one[0]
        assert all(equal(first, later) for later in states_of_one[: FROZEN + 1])
        assert not equal(first, states_of_one[FROZEN + 1])
    assert not equal(head[0], head[1]) and not equal(head[1], head[2])


def test_running_statistics_of_keys_stay_after_the_thaw_too(tmp_path):
    """MoCo's keys are normalised by them, whether a run was resumed there or not."""
    modes, t = [], trainer("moco", tmp_path, **SHORT, model__arch="resnet10",
                           train__freeze_backbone_steps=FROZEN)  # fmt: skip
    after_step = t.method.after_step

    def kept(values):
        modes.append([backbone.training for backbone in t.method.backbones])
        after_step(values)

    t.method.after_step = kept
    t.fit()
    assert modes == [[False, False]] * FROZEN + [[True, False]] * (4 - FROZEN)


def test_what_is_never_thawed_is_refused(tmp_path):
    with pytest.raises(UserError, match="freeze it for fewer"):
        trainer("dino", tmp_path, **SHORT, train__freeze_backbone_steps=4)
