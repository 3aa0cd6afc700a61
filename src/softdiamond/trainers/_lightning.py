"""The callback of Lightning."""

from __future__ import annotations

from typing import Any

from softdiamond._compat import logs_now
from softdiamond._extras import require

require("trainers", "lightning")

from lightning.pytorch import Callback, LightningModule, Trainer

from softdiamond.regularizer import Regularizer
from softdiamond.trainers._shared import Hooked, Source, metrics


class LightningCallback(Callback):
    """Hooks a regularizer to the optimizers of a Lightning training.

    Parameters
    ----------
    regularizer : Regularizer or callable
        The regularizer of the module's weights, or a function of the LightningModule that makes it when training starts: for
        modules whose weights come into being in ``configure_model``.
    mode : {"implicit", "prox", "gradient"}
        As of `softdiamond.Regularizer.attach`.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If there is no such mode; at the start of the training as `softdiamond.Regularizer.attach`, for example if the
        regularizer is attached to the optimizer already.

    Examples
    --------
    >>> import lightning, torch, softdiamond as sd
    >>> from softdiamond.trainers import LightningCallback
    >>> model = torch.nn.Linear(8, 4)  # your LightningModule
    >>> callback = LightningCallback(sd.Regularizer(model, sd.SoftDiamond(0.5), strength=1.0))
    >>> trainer = lightning.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self, regularizer: Source, mode: str = "implicit") -> None:
        self._hooked = Hooked(regularizer, mode)

    @property
    def regularizer(self) -> Regularizer | None:
        """The regularizer; None as long as it is still to be made."""
        return self._hooked.regularizer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach: the optimizers exist, and a checkpoint is restored."""
        self._hooked.begin(pl_module, trainer.optimizers)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log where the loggers are about to write."""
        if self.regularizer is not None and logs_now(trainer):
            pl_module.log_dict(metrics(self.regularizer), on_step=True, on_epoch=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach."""
        self._hooked.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach."""
        self._hooked.end()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the regularizer."""
        return self._hooked.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state when the training starts."""
        self._hooked.keep(state_dict)
