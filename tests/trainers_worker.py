"""The same small training by a plain loop, Lightning, Transformers and Accelerate; as a program, one process of two under DDP.

python trainers_worker.py FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set: writes FOLDER/<trainer>-RANK.pt.
"""

import os
import socket
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

import softdiamond as sd

STEPS, BATCH = 6, 8
RATE, STRENGTH = 0.05, 0.1


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Net(nn.Module):
    """With the interface that Transformers' Trainer wants."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x, labels=None):
        out = self.layers(x)
        return {"logits": out} if labels is None else {"loss": mse_loss(out, labels), "logits": out}


def model() -> Net:
    torch.manual_seed(5)
    return Net()


class Data(torch.utils.data.Dataset):
    """STEPS batches; the one with the number ``overflow`` has targets beyond float32's gradients."""

    def __init__(self, overflow=None):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(STEPS * BATCH, 6, generator=generator)
        self.y = torch.randn(STEPS * BATCH, 3, generator=generator)
        if overflow is not None:
            self.y[overflow * BATCH : (overflow + 1) * BATCH] = 1e37

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": self.y[i]}


def make(net, strength=STRENGTH, center="zero"):
    return sd.Regularizer(net, sd.SoftDiamond(0.5), strength, center=center)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.5)


def result(net) -> dict:
    return {name.removeprefix("module."): p.detach().clone() for name, p in net.named_parameters()}


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1000)


def loop(mode="implicit", gather=1, overflow=None, strength=STRENGTH):
    """The plain loop: what the others must equal. Each batch's gradient counts 1 / gather."""
    net, data = model(), Data()
    optimizer = sgd(net)
    reg = make(net, strength).attach(optimizer, mode=mode)
    for step in range(STEPS):
        if step == overflow:
            continue
        part = slice(step * BATCH, (step + 1) * BATCH)
        (mse_loss(net.layers(data.x[part]), data.y[part]) / gather).backward()
        if (step + 1) % gather == 0:
            optimizer.step()
            optimizer.zero_grad()
    return result(net), reg


def by_lightning(
    folder, mode="implicit", gather=1, overflow=None, stop=None, resume=False, later=False, seen=None, twice=False,
    world=1, **settings,
):  # fmt: skip
    import lightning
    from lightning.pytorch.loggers.logger import Logger
    from lightning.pytorch.plugins import MixedPrecision

    from softdiamond.trainers import LightningCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model()

        def training_step(self, batch, index):
            return self.net(**batch)["loss"]

        def configure_optimizers(self):
            return sgd(self.net)

    class Seen(Logger):
        name, version, experiment = "seen", "0", None

        def log_metrics(self, metrics, step=None):
            seen.append(metrics)

        def log_hyperparams(self, *args, **kwargs): ...

    module = Module()
    reg = make(module.net, **settings)
    if twice:
        optimizer = sgd(module.net)
        reg.attach(optimizer)
    callback = LightningCallback((lambda m: make(m.net, **settings)) if later else reg, mode)
    precision = [MixedPrecision("16-mixed", "cpu", scaler=scaler())] if overflow is not None else []
    if precision:
        precision[0].forward_context = torch.enable_grad  # float32 all the same: only the loss scale counts here
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_epochs=2 if resume else 1,
        accumulate_grad_batches=gather,
        callbacks=[callback],
        plugins=precision,
        logger=Seen() if seen is not None else False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data = Data(overflow)
    if stop or resume:  # the halves of the data are an epoch each
        data.x, data.y = (part.chunk(2)[int(resume)] for part in (data.x, data.y))
    rank = int(os.environ.get("RANK", 0))
    sampler = torch.utils.data.DistributedSampler(data, world, rank, shuffle=False)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH // world, sampler=sampler)
    path = Path(folder, "checkpoint.ckpt")
    trainer.fit(module, loader, ckpt_path=path if resume else None, weights_only=False if resume else None)
    if stop:
        trainer.save_checkpoint(path)
    return result(module.net), callback.regularizer


def by_transformers(
    folder, mode="implicit", gather=1, overflow=None, stop=None, resume=False, later=False, seen=None, twice=False,
    world=1, **settings,
):  # fmt: skip
    import transformers

    from softdiamond.trainers import TransformersCallback

    class Seen(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    class Trainer(transformers.Trainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    net = model()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=BATCH // world,
        gradient_accumulation_steps=gather,
        num_train_epochs=1,
        max_grad_norm=0.0,
        save_strategy="steps" if stop else "no",
        save_steps=stop or 500,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    optimizer = sgd(net)
    trainer = Trainer(
        net,
        arguments,
        train_dataset=Data(overflow),
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        callbacks=[Seen()] if seen is not None else [],
    )
    reg = make(net, **settings)
    callback = TransformersCallback((lambda m: make(m, **settings)) if later else reg, mode).add_to(trainer)
    if twice:
        TransformersCallback(reg).add_to(trainer)
    if stop:
        trainer.add_callback(_Stop(stop))
    if overflow is not None:
        trainer.accelerator.scaler = scaler()
    trainer.train(resume_from_checkpoint=resume)
    return result(net), callback.regularizer


def _Stop(step):
    import transformers

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= step

    return Stop()


def by_accelerate(
    folder,
    mode="implicit",
    gather=1,
    overflow=None,
    stop=None,
    resume=False,
    seen=None,
    twice=False,
    world=1,
    **settings,
):
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

    from softdiamond.trainers import metrics, with_accelerate

    class Seen(GeneralTracker):
        name, requires_logging_directory, tracker = "seen", False, None

        def store_init_configuration(self, values): ...

        def log(self, values, step=None, **kwargs):
            seen.append(values)

    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=gather,
        log_with=[Seen()] if seen is not None else None,
        project_dir=folder,
    )
    if overflow is not None:
        accelerator.scaler = scaler()
    net = model()
    loader = torch.utils.data.DataLoader(Data(overflow), batch_size=BATCH // world)
    net, optimizer, loader = accelerator.prepare(net, sgd(net), loader)
    reg = with_accelerate(make(net, **settings), accelerator, optimizer, mode)
    if twice:
        with_accelerate(reg, accelerator, optimizer)
    accelerator.init_trackers("seen")
    done = 0
    if resume:
        accelerator.load_state(str(Path(folder, "state")))
        done = STEPS // 2
    for number, batch in enumerate(loader):
        if number < done:
            continue
        with accelerator.accumulate(net):
            accelerator.backward(net(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        accelerator.log(metrics(reg), step=number)
        if stop and number + 1 == stop:
            accelerator.save_state(str(Path(folder, "state")))
            break
    return result(net), reg


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in ("accelerate", "transformers", "lightning"):
        own = Path(sys.argv[1], name)
        weights, _ = globals()[f"by_{name}"](own, world=2)
        torch.save(weights, Path(sys.argv[1], f"{name}-{os.environ['RANK']}.pt"))
