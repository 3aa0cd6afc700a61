"""The callback of Transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from softdiamond._extras import require

require("trainers", "transformers")

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from softdiamond.regularizer import Regularizer
from softdiamond.trainers._shared import Hooked, Source, metrics

FILE = "soft_diamond.pt"  # in the folder of a checkpoint


class TransformersCallback(TrainerCallback):
    """Hooks a regularizer to the optimizer of ``transformers.Trainer``.

    Its metrics are added to what the trainer logs. Put it on with `add_to`, which places it ahead of the loggers; one that is
    named in ``Trainer(callbacks=...)`` works as well, but loggers that stand before it have written when it adds its metrics,
    which are then in ``trainer.state.log_history`` alone.

    The state lies in the checkpoint's folder as ``soft_diamond.pt`` and is found there on resuming from a checkpoint in the
    trainer's output folder, whatever state the regularizer has by then. From a checkpoint elsewhere, load it into the
    regularizer first.

    Parameters
    ----------
    regularizer : Regularizer or callable
        The regularizer of the model's weights, or a function of the model that makes it when training begins.
    mode : {"implicit", "prox", "gradient"}
        As of `softdiamond.Regularizer.attach`.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If there is no such mode; when training begins as `softdiamond.Regularizer.attach`.
    FileNotFoundError
        When a training is resumed whose checkpoint has no state of a regularizer, and the regularizer has none that fits.

    Examples
    --------
    >>> import torch, transformers, softdiamond as sd
    >>> from softdiamond.trainers import TransformersCallback
    >>> config = transformers.BertConfig(
    ...     vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    ... )
    >>> model = transformers.BertForSequenceClassification(config)
    >>> rules = [sd.Rule(torch.nn.Embedding, skip=True), sd.Rule("classifier.*", skip=True)]
    >>> callback = TransformersCallback(sd.Regularizer(model, sd.SoftDiamond(0.5), strength=1.0, rules=rules))
    """

    def __init__(self, regularizer: Source, mode: str = "implicit") -> None:
        self._hooked = Hooked(regularizer, mode)

    @property
    def regularizer(self) -> Regularizer | None:
        """The regularizer; None as long as it is still to be made."""
        return self._hooked.regularizer

    def add_to(self, trainer: Trainer) -> TransformersCallback:
        """Add to a trainer's callbacks, ahead of the loggers. Returns self."""
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach: the optimizer exists, and a checkpoint is restored."""
        if state.global_step > 0:
            done = max(self._hooked.state().get("steps", []), default=0)
            fits = 0 < done <= state.global_step  # fewer if a loss scale left steps out; more is a longer training's
            if saved := _saved_at(args, state, needed=not fits):
                self._hooked.keep(torch.load(saved, weights_only=True))
        self._hooked.begin(kwargs["model"], [kwargs["optimizer"]])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the metrics to the training's, those of an evaluation left alone."""
        logs = kwargs.get("logs") or {}
        if self.regularizer is not None and "loss" in logs:
            logs |= metrics(self.regularizer)
            if state.log_history:
                state.log_history[-1] |= logs

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state into the checkpoint's folder."""
        if not args.should_save:
            return
        path = Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", FILE)
        part = path.with_suffix(".part")
        torch.save(self._hooked.state(), part)
        part.replace(path)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach."""
        self._hooked.end()


def _saved_at(args: TrainingArguments, state: TrainerState, needed: bool) -> Path | None:
    named = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
    folders = [
        Path(str(args.output_dir), named),
        *([Path(args.resume_from_checkpoint)] if args.resume_from_checkpoint else []),
    ]
    for folder in folders:
        if (folder / FILE).is_file():
            return folder / FILE
    if not needed:
        return None
    raise FileNotFoundError(
        f"the training resumes at step {state.global_step}, but {folders[0] / FILE} is not there: give the regularizer its "
        "state first, reg.load_state_dict(torch.load(PATH, weights_only=True))"
    )
