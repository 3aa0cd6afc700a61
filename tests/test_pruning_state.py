"""Trainings with zeros go on from states that an earlier version of this library saved.

``saved/pruning_states_1.pt`` holds, for each of `SETTINGS`, the state dicts of model, optimizer and Regularizer after 7 of 12 steps,
and the weights after all 12, as the first version of the format had them.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from softdiamond import Regularizer, SoftDiamond

STEPS, STOPPED = 12, 7
SAVED = Path(__file__).parent / "saved" / "pruning_states_1.pt"
SETTINGS = {
    "target": {"sparsity_target": 0.6, "pruning_interval": (0.1, 0.9), "scope": "layerwise", "total_steps": STEPS},
    "number": {"sparsity_target": 30, "total_steps": STEPS},
    "homotopy": {"schedule": "homotopy", "total_steps": STEPS},
    "both": {"sparsity_target": 0.3, "schedule": "homotopy", "total_steps": STEPS},
    "groups": {"sparsity_target": 0.4, "total_steps": STEPS},
    "held": {},
    "plain": {},
}


@pytest.fixture(scope="module")
def saved():
    return torch.load(SAVED, weights_only=True)


def begun(name):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    penalty = SoftDiamond(0.5, group="output" if name == "groups" else None)
    return model, optimizer, Regularizer(model, penalty, 0.05, **SETTINGS[name]).attach(optimizer)


@pytest.mark.parametrize("name", SETTINGS)
def test_training_goes_on_from_a_saved_state(saved, name):
    model, optimizer, reg = begun(name)
    for part, key in ((model, "model"), (optimizer, "optimizer"), (reg, "regularizer")):
        part.load_state_dict(saved[name][key])
    for k in range(STOPPED, STEPS):
        x = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(10, 6).roll(k, 0)
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
    for key, w in model.state_dict().items():
        torch.testing.assert_close(w, saved[name]["end"][key], rtol=1e-9, atol=1e-12)
        assert torch.equal(w == 0, saved[name]["end"][key] == 0)
    assert reg.sparsity == saved[name]["removed"]


def test_a_saved_state_of_other_settings_is_refused(saved):
    reg = begun("plain")[2]
    with pytest.raises(ValueError, match="layerwise"):
        reg.load_state_dict(saved["target"]["regularizer"])
