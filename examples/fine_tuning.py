"""Fine-tuning that leaves most of a trained network as it was: center="initial".

A network learns scikit-learn's digits, then the same digits shifted by one pixel from 100 examples. The penalty is on the
distance of each weight to its trained value, so that only those weights move that have to. Compared: plain fine-tuning,
the soft diamond about 0 (ordinary regularization) and about the trained weights.

Run: python examples/fine_tuning.py  (a few seconds; needs scikit-learn: pip install "softdiamond[torch,sklearn]")
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import softdiamond as sd

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow so small a network down
pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
shifted = x.view(-1, 8, 8).roll(1, 2).flatten(1)
order = torch.randperm(len(y))
train, few, test = order[:1000], order[1000:1100], order[1100:]


def fit(model: nn.Module, x: Tensor, y: Tensor, steps: int, reg: sd.Regularizer | None = None) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    if reg is not None:
        reg.attach(optimizer)
    for _ in range(steps):
        batch = torch.randint(len(y), (64,))
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor) -> float:
    return 100 * float((model(x[test]).argmax(dim=1) == y[test]).float().mean())


trained = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
fit(trained, x[train], y[train], 1000)
print(f"trained: unshifted {accuracy(trained, x):.1f} %, shifted {accuracy(trained, shifted):.1f} %")

for name, center in (("plain", None), ("about zero", "zero"), ("about the trained weights", "initial")):
    torch.manual_seed(1)
    model = copy.deepcopy(trained)
    reg = center and sd.Regularizer(model, sd.SoftDiamond(alpha=0.5), strength=1.0, center=center)
    fit(model, shifted[few], y[few], 500, reg)
    pairs = [
        (a.detach(), b.detach()) for a, b in zip(model.parameters(), trained.parameters(), strict=True) if a.dim() == 2
    ]
    moved = sum(int(((a - b).abs() > 1e-3).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    print(
        f"fine-tuned, {name}: shifted {accuracy(model, shifted):.1f} %, unshifted {accuracy(model, x):.1f} %, "
        f"weights that moved by more than 0.001: {100 * moved:.0f} %"
    )
