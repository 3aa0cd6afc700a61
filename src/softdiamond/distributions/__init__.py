"""The stable law as a ``torch.distributions.Distribution``: `SymmetricStable`.

``torch.distributions.kl_divergence`` knows two of them, and one beside torch's Normal: by quadrature with the exact law on the
CPU, once for each different pair, with first derivatives in both scales, locations and tensor alphas below 2. It is
infinite where the second law is Gaussian and the first is not.
"""

from softdiamond.distributions import _divergence as _divergence  # registers the divergences
from softdiamond.distributions._symmetric_stable import SymmetricStable

__all__ = ["SymmetricStable"]
