"""One process of two that train together on the CPU; `test_regularizer.py` starts both and reads what they saved.

python ddp_worker.py RANK FOLDER: meets the other in FOLDER, writes FOLDER/RANK.pt.
"""

import itertools
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import softdiamond as sd

MODES = "implicit", "prox", "gradient"
CENTERS = "zero", "initial"
CASES = list(itertools.product(MODES, CENTERS))
STEPS = 4
KINDS = "ddp", "ddp-bfloat16", "ddp-groups", "fsdp", "fsdp-groups"
GROUPS = {
    "ddp-groups": [{"0.weight": "output", "0.bias": "output", "2.weight": "input"}, {"2.bias": "output"}],
    "fsdp-groups": "output",
}


def model(dtype=torch.float32) -> nn.Module:
    """The same on each rank; its first dimensions are no multiples of two, so that shards differ in size."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)


def train(module, mode, center, part=slice(None), dtype=torch.float32, group=None):
    """A few steps on this part of each batch; the regularizer."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    reg = sd.Regularizer(module, sd.SoftDiamond(0.5, group), 1e-2, center=center).attach(optimizer, mode=mode)
    for step in range(STEPS):
        x, y = (tensor[part].to(dtype) for tensor in batch(step))
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), y).backward()
        optimizer.step()
    return reg


def full(state):
    return {
        key: (value.full_tensor() if hasattr(value, "full_tensor") else value).clone() for key, value in state.items()
    }


def main(rank: int, folder: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    part = slice(4 * rank, 4 * rank + 4)
    saved: dict[str, object] = {}
    for mode, center in CASES:
        for kind in KINDS:
            dtype = torch.bfloat16 if kind == "ddp-bfloat16" else torch.float32
            module = model(dtype)
            if kind.startswith("fsdp"):
                mesh = init_device_mesh("cpu", (2,))
                for layer in (module[0], module[2], module):
                    fully_shard(layer, mesh=mesh)
                trained = module
            else:
                trained = nn.parallel.DistributedDataParallel(module)
            try:
                reg = train(trained, mode, center, part, dtype, GROUPS.get(kind))
            except Exception as error:
                saved[f"{kind} {mode} {center}"] = repr(error)
                continue
            saved[f"{kind} {mode} {center}"] = {
                "weights": full(trained.state_dict() if kind == "fsdp" else module.state_dict()),
                "records": [(r["name"], r.get("reference"), r.get("lambda")) for r in reg.describe().records],
            }
    torch.save(saved, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), Path(sys.argv[2]))
