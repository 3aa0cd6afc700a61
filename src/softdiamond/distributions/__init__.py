"""The stable law as a ``torch.distributions.Distribution``: `SymmetricStable`."""

from softdiamond.distributions._symmetric_stable import SymmetricStable

__all__ = ["SymmetricStable"]
