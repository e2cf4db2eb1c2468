"""The simulated device is as strict as a real one: tests on it would pass on anything else."""

import pytest
import torch
from simulated_device import DeviceMismatch, DeviceTensor, simulated_cuda

CUDA = torch.device("cuda", 0)
WAITS = {
    "item": lambda x, h: x.sum().item(),
    "bool": lambda x, h: bool(x.sum() > 0),
    "tolist": lambda x, h: x.tolist(),
    "to the host": lambda x, h: x.cpu(),
    "into the host": lambda x, h: h.copy_(x),
    "nonzero": lambda x, h: x.nonzero(),
    "mask": lambda x, h: x[x > 0],
    "host indices": lambda x, h: x[torch.tensor([0, 1])],
    "from the host": lambda x, h: h.to(CUDA),
    "from pageable memory": lambda x, h: h.to(CUDA, non_blocking=True),
    "new from a list": lambda x, h: torch.tensor([1.0, 2.0], device=CUDA),
}
FREE = {
    "product": lambda x, h: x @ x,
    "host scalar": lambda x, h: x * torch.tensor(2.0),
    "view": lambda x, h: x[1:].T.reshape(-1),
    "device indices": lambda x, h: x[torch.arange(2, device=CUDA)],
    "pinned": lambda x, h: h.pin_memory().to(CUDA, non_blocking=True),
    "in place": lambda x, h: x.mul_(2).clamp_(0, 1),
}


@pytest.fixture
def device():
    host = torch.arange(9.0).view(3, 3)
    with simulated_cuda() as ledger:
        yield host.to(CUDA), host, ledger.take() and ledger


@pytest.mark.parametrize("name", WAITS)
def test_it_knows_what_waits(device, name):
    x, host, ledger = device
    WAITS[name](x, host)
    assert len(ledger.take().waits) == 1


@pytest.mark.parametrize("name", FREE)
def test_it_knows_what_does_not(device, name):
    x, host, ledger = device
    made = FREE[name](x, host)
    assert isinstance(made, DeviceTensor) and made.device == CUDA
    assert ledger.take().waits == []


def test_host_and_device_do_not_meet(device):
    x, host, _ = device
    for meet in (lambda: x + host, lambda: torch.cat([x, host]), lambda: host[x.long()]):
        with pytest.raises(DeviceMismatch):
            meet()


def test_gradients_are_the_hosts(device):
    _, host, ledger = device
    weights = [host.clone().requires_grad_(), host.to(CUDA).requires_grad_()]
    for weight in weights:
        (weight.softmax(dim=1) @ weight).square().sum().backward()
    assert isinstance(weights[1].grad, DeviceTensor)
    torch.testing.assert_close(weights[1].grad.held, weights[0].grad)


def test_it_counts_kernels_and_sees_float64(device):
    x, _, ledger = device
    ledger.take()
    (x.view(9) + 1).double()
    counted = ledger.take()
    assert counted.kernels == {"add.Tensor": 1, "_to_copy.default": 1}
    assert list(counted.wide) == ["_to_copy.default at outside the package"]


def test_it_is_gone_afterwards():
    with simulated_cuda():
        assert torch.cuda.is_available()
    assert type(torch.zeros(2)) is torch.Tensor
    assert torch.tensor([1]).device.type == "cpu"
