"""The recipe for Accelerate."""

from __future__ import annotations

from typing import Any

from softdiamond._extras import require

require("trainers", "accelerate")

from accelerate import Accelerator

from softdiamond.regularizer import Regularizer
from softdiamond.trainers._shared import plain


def with_accelerate(
    regularizer: Regularizer, accelerator: Accelerator, optimizer: Any, mode: str = "implicit"
) -> Regularizer:
    """Hook a regularizer to an optimizer that an Accelerator has prepared, and keep its state in that one's checkpoints.

    Log with ``accelerator.log(softdiamond.trainers.metrics(regularizer), step=...)``.

    Parameters
    ----------
    regularizer : Regularizer
        Of the prepared model.
    accelerator : Accelerator
        Whose ``save_state`` and ``load_state`` take the regularizer's state along.
    optimizer : AcceleratedOptimizer
        What ``accelerator.prepare`` returned.
    mode : {"implicit", "prox", "gradient"}
        As of `softdiamond.Regularizer.attach`.

    Returns
    -------
    Regularizer
        The same.

    Raises
    ------
    TypeError, ValueError
        As `softdiamond.Regularizer.attach`, for example if it is attached already.

    Examples
    --------
    >>> import torch, softdiamond as sd
    >>> from accelerate import Accelerator
    >>> from softdiamond.trainers import with_accelerate
    >>> accelerator, model = Accelerator(cpu=True), torch.nn.Linear(8, 4)
    >>> model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), weight_decay=0.0))
    >>> reg = with_accelerate(sd.Regularizer(model, sd.SoftDiamond(0.5), strength=1.0), accelerator, optimizer)
    """
    regularizer.attach(plain(optimizer), mode)
    accelerator.register_for_checkpointing(regularizer)
    return regularizer
