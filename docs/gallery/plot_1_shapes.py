r"""
Shapes: penalty, gradient and decay
===================================

What a weight feels as the tail gets thicker. All laws have the scale at which a weight of 1 feels a decay of 1: the strength of
the regularizer, which makes strengths comparable across alphas.
"""

import matplotlib.pyplot as plt
import numpy as np

from softdiamond import stable

w = np.linspace(-4, 4, 801)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
for alpha in (2.0, 1.5, 1.0, 0.5):
    lam = 1 / stable.omega(1.0, alpha)
    omega = lam * stable.omega(w, alpha)
    for axis, values in zip(axes, (lam * stable.group_penalty(np.abs(w), alpha, 1), omega * w, omega), strict=True):
        axis.plot(w, values, label=f"alpha {alpha:g}")
for axis, title in zip(axes, ("penalty", "gradient", "omega, the adaptive decay"), strict=True):
    axis.set(title=title, xlabel="weight")
axes[2].set_yscale("log")
axes[0].legend()

# %%
# At alpha = 2 the decay is the same for every weight: weight decay. At 0.5 a weight near zero decays 112 times as strongly as a
# typical one, and one of four times the typical size 15 times less.

for size in (0.0, 1.0, 4.0):
    print(size, stable.omega(size, 0.5) / stable.omega(1.0, 0.5))
