"""A plain PyTorch training script made sparser with one line: scikit-learn's digits, a small network, AdamW.

Run: python examples/sparser_digits.py  (a few seconds; needs scikit-learn: pip install "softdiamond[torch,sklearn]")
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import softdiamond as sd

torch.set_num_threads(1)  # more would only slow so small a network down
pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
train, test = order[:1200], order[1200:]


def train_network(strength: float) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1200)
    reg = sd.Regularizer(model, sd.SoftDiamond(alpha=0.5), strength).attach(optimizer)  # the one line
    if strength:
        print(reg.describe())
    for _ in range(1200):
        batch = train[torch.randint(len(train), (64,))]
        loss = cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return 100 * float((model(x[test]).argmax(dim=1) == y[test]).float().mean())


@torch.no_grad()
def cut(model: nn.Module, share: float) -> None:
    """Set the smallest weights to 0."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    threshold = sizes.kthvalue(int(share * len(sizes))).values
    for weight in weights:
        weight[weight.abs() <= threshold] = 0.0


for strength in (0.0, 2.0):
    model = train_network(strength)
    line = f"strength {strength}: test accuracy {accuracy(model):.1f} %"
    for share in (0.8, 0.9, 0.95):
        cut(model, share)
        line += f", without the smallest {100 * share:.0f} % of its weights {accuracy(model):.1f} %"
    print(line)
