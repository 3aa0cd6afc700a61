"""States that earlier versions saved: they are taken over, and the training goes on as it would have then.

``saved/regularizer_states_1.pt`` was written by the first version of the format: for each case the weights and the state after
three steps of `moved`, and the weights after three more.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from softdiamond import L1, Regularizer, SoftDiamond

SAVED = torch.load(Path(__file__).parent / "saved" / "regularizer_states_1.pt", weights_only=True)
HALF = SoftDiamond(0.5)
CASES = {
    "bfloat16": (torch.bfloat16, HALF, {"strength": 0.1}),
    "center": (torch.float32, HALF, {"strength": 0.1, "center": "initial"}),
    "one rms": (torch.float32, L1(), {"strength": 0.1, "reference": "model"}),
    "absolute": (torch.float32, SoftDiamond(1.0), {"lam": 1e-4, "dispersion": 0.3}),
    "groups": (torch.float32, SoftDiamond(0.5, group="output"), {"strength": 0.1}),
    "target": (
        torch.float32,
        HALF,
        {
            "strength": 0.1,
            "sparsity_target": 0.5,
            "total_steps": 10,
            "pruning_interval": (0.1, 0.6),
            "scope": "relative",
        },
    ),
    "homotopy": (torch.float32, HALF, {"strength": 0.1, "schedule": "homotopy", "total_steps": 5}),
}


def net(dtype) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


@torch.no_grad()
def moved(model, regularizer) -> None:
    for parameter in model.parameters():
        parameter.add_(0.01)
    regularizer.step(0.1)


@pytest.mark.parametrize("case", CASES)
def test_training_resumes_from_a_state_of_the_first_format(case):
    dtype, penalty, settings = CASES[case]
    model = net(dtype)
    regularizer = Regularizer(model, penalty, **settings)
    model.load_state_dict(SAVED[case]["weights"])
    regularizer.load_state_dict(SAVED[case]["state"])
    for _ in range(3):
        moved(model, regularizer)
    torch.testing.assert_close(dict(model.state_dict()), SAVED[case]["after"], rtol=1e-6, atol=1e-7)


def test_the_state_is_needed():
    """The test above can fail: without the state a training with random rounding, or towards a target, goes another way."""
    for case in ("bfloat16", "center", "target", "homotopy"):
        dtype, penalty, settings = CASES[case]
        model = net(dtype)
        model.load_state_dict(SAVED[case]["weights"])
        regularizer = Regularizer(model, penalty, **settings)
        for _ in range(3):
            moved(model, regularizer)
        assert any(not torch.equal(model.state_dict()[name], after) for name, after in SAVED[case]["after"].items())
