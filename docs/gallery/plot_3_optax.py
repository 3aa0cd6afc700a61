r"""
A sparse linear model in JAX
============================

Twelve of 200 coefficients are not zero. Plain least squares, the lasso's subgradient and the implicit step of a soft diamond, the
latter two through optax, tell different stories about which. One draw with settings set by hand: a picture, not a result.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from softdiamond.jax import implicit_soft_diamond

rng = np.random.default_rng(0)
x = rng.normal(size=(300, 200)).astype(np.float32)
truth = np.zeros(200, np.float32)
truth[rng.choice(200, 12, replace=False)] = rng.choice([-1, 1], 12) * rng.uniform(0.8, 3, 12)
y = x @ truth + rng.normal(size=300).astype(np.float32)


def fitted(last, slope=0.0):
    optimizer = optax.chain(optax.sgd(0.1), last)

    @jax.jit
    def step(w, state):
        gradient = x.T @ (x @ w - y) / len(y) + slope * jnp.sign(w)
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.full(200, 0.3)
    state = optimizer.init(w)
    for _ in range(400):
        w, state = step(w, state)
    return np.abs(np.asarray(w))


fits = {
    "least squares": fitted(optax.identity()),
    "lasso": fitted(optax.identity(), slope=0.2),
    "soft diamond 0.5": fitted(implicit_soft_diamond(0.1, strength=0.3, alpha=0.5, relative_scale=0.1)),
}

figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
for axis, (name, size) in zip(axes, fits.items(), strict=True):
    axis.semilogy(np.maximum(size, 1e-9), ".", color="0.6")
    axis.semilogy(np.flatnonzero(truth), size[truth != 0], "o", label="truly not zero")
    axis.set(title=name, xlabel="coefficient")
    print(f"{name}: largest false one {size[truth == 0].max():.1e}, smallest true one {size[truth != 0].min():.2f}")
axes[0].set_ylabel("size")
axes[0].legend()

# %%
# The soft diamond presses what is truly zero lower and shrinks the true ones less, as its tail promises.
