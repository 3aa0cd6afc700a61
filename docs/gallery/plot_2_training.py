r"""
A network gets sparse
=====================

The same small network on scikit-learn's digits, with and without the one line; then the smallest weights are cut, once.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import softdiamond as sd

torch.set_num_threads(1)
pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
train, test = order[:1200], order[1200:]


def trained(strength):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    if strength:
        sd.Regularizer(model, sd.SoftDiamond(alpha=0.5), strength).attach(optimizer)  # the one line
    for _ in range(600):
        batch = train[torch.randint(len(train), (64,))]
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return model


models = {"without": trained(0.0), "soft diamond 0.5, strength 2": trained(2.0)}

# %%
# The weights: most of those of the soft diamond are near zero, the few large ones as large as before.

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, model in models.items():
    axis.hist(model[0].weight.detach().flatten().numpy(), bins=200, range=(-0.5, 0.5), histtype="step", label=name)
axis.set(yscale="log", xlabel="weight", ylabel="how many", title="first layer")
axis.legend()

# %%
# Cut once, by magnitude, one threshold for the whole net:

shares = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95]
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, model in models.items():
    weights = {key: w for key, w in model.named_parameters() if w.dim() == 2}
    accuracies = []
    for share in shares:
        sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()])
        threshold = sizes.quantile(share) if share else -1.0
        with torch.no_grad():
            for w in weights.values():
                w[w.abs() <= threshold] = 0.0
            accuracies.append(100 * float((model(x[test]).argmax(1) == y[test]).float().mean()))
    axis.plot(shares, accuracies, "o-", label=name)
    print(name, [round(accuracy, 1) for accuracy in accuracies])
axis.set(xlabel="share of weights removed", ylabel="test accuracy in %")
axis.legend()
