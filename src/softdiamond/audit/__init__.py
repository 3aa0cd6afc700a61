r"""What the weights of a checkpoint look like: for each tensor the stable law that fits it, without its code or data.

Each tensor is read in pieces into a histogram of \|w\| with `PER_OCTAVE` bins an octave, cut along the bits of the numbers; the fits,
the quantiles and the energies come from the bins. Their middles stand for their members: that moves alpha and scale by the order
of (bin width)^2 / 24, 4e-5 of their size, far less than the standard error of ten million weights. The law is symmetric about 0, as a prior
of weights is; weights that are exactly 0 are counted and left out of the fit.

- **alpha, scale**: maximum likelihood (`softdiamond.stable.fit`), with 95 % intervals, as if the weights were independent draws of
  the law. No law is exactly true, and with millions of weights the intervals say how sharp the fit is, not how good.
- **fits**: mean log-likelihood of a weight, and the Kolmogorov-Smirnov distance (the largest difference of the distribution
  functions of \|w\|), for the stable law, Gaussian, Laplace and Student-t. **heavy_tailed**: the stable law or Student-t has the
  lowest AIC, with an alpha below `LIGHT`.
- **no law fits** where the Kolmogorov-Smirnov distance of each of the four is above `MISFIT`: a tenth of the weights lie elsewhere
  than the law says, as those of a tensor that was quantised to a few bits. A sample of the law itself comes out above that by
  chance in at most 4 % of cases with 200 weights, the fewest that are fitted (2 exp(-2 n 0.1^2)), and never with many. There is
  no best law then, and nothing is suggested.
- **removable**: the share of the tensor's weights, smallest first, that together hold 1 % or 5 % of its energy, the sum of
  squares; and the threshold.
- **suggested**: alpha of the fit, and its scale in units of the tensor's rms: the settings of `softdiamond.Regularizer` at which the
  prior is the law that these weights follow.

What an **optimizer** keeps in a training checkpoint is no weight, and skipped: tensors under ``state`` and ``param_groups`` of a dict
with both, as ``optimizer.state_dict()`` returns it, and those of which a part of the name (between dots) is ``optimizer``,
``optimizer_state``, ``exp_avg``, ``exp_avg_sq``, ``max_exp_avg_sq`` or ``momentum_buffer``.
"""

from softdiamond.audit._fit import audit

__all__ = ["audit"]
