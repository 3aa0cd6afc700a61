"""Speed and memory of the regularizer's step beside weight decay and an L1 subgradient, as plain torch runs them.

    python benchmarks/step.py [--quick] [--eager] [--part weights|groups|first|training|memory]

As `pip install softdiamond[all]` has it, hence with numba; ``--eager`` measures the step without it. Each part runs in a
process of its own, on one thread unless a table says two. What is compared takes turns, and a ratio is the median of the
ratios of neighbours in time, so that a busy machine slows both sides alike. Times are CPU time with one thread, wall time
with two.

- **weights**: one step on 10 million float32 weights in one tensor. The named baseline is the eager L1 subgradient,
  ``g.add_(w.sign(), alpha=s)``; "bare decay", ``w.mul_(s)``, is the floor that memory sets. Everything is measured twice:
  with the C library's allocator as it is, which takes the 40 MB of ``w.sign()`` from the system and gives it back each
  time, so that the subgradient takes more than four times as long; and ("kept", Linux) with memory kept by the process,
  as glibc does below 32 MB: the hardest comparison for us. The regularizer makes no such temporary.
- **groups**: the implicit step by group on the same weights as the elementwise one, whose time is the baseline: a linear
  layer and convolutions, by output, input, head and by labels of a function, along one dimension and of each weight.
- **first**: what a fresh process pays before its second step, beyond importing torch: with no table in the cache, with
  the cache off, and with a table there.
- **training**: whole training steps of a network with ``weight_decay=5e-4`` in the optimizer against ``weight_decay=0``
  and the regularizer attached, the learning rate changing each step. Pairs of blocks of steps, whose order alternates; the
  median of the ratios with its 95 % interval (by order statistics). Where that is wider than the effect, read the
  regularizer's own time, taken around its hook, over the rest of its step: it leaves out what the decay in the optimizer
  costs, and what the table pushes out of the cache.
- **memory**: by how much one step raises the high-water mark of resident memory, 20 million weights, each in a process of
  its own.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from softdiamond import L1, Regularizer, SoftDiamond
from softdiamond.regularizer import _steps

PARTS = "weights", "groups", "first", "training", "memory"
ALPHAS = 0.1, 0.5, 1.0, 1.5
STRENGTH, ETA, RMS = 5e-4, 0.1, 0.05
MIB = 2**20
Call = Callable[[], object]


class Idle(Optimizer):
    """An optimizer whose step does nothing, so that what it takes is what its hooks take."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": ETA})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


# --- one step, by weight ---------------------------------------------------------------------------------------------


def weights_of(count: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter((torch.randn(count) * RMS).to(dtype).view(-1, 1000))


def regularizer_step(weight: nn.Parameter, alpha: float, mode: str = "implicit", **settings: Any) -> Call:
    """The step of a regularizer as its hook takes it; mode "changing" is implicit with another lr each time."""
    optimizer = Idle([weight])
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight) if mode == "gradient" else weight.detach()  # that there is one counts
    kind = "implicit" if mode == "changing" else mode
    reg = Regularizer([("w", weight)], SoftDiamond(alpha), STRENGTH, **settings)
    if settings.get("center") == "initial":
        weight.detach().mul_(1.1)
    reg.attach(optimizer, kind, eta=lambda group: group["lr"])
    counter = itertools.count()

    def call() -> None:
        if mode == "changing":
            optimizer.param_groups[0]["lr"] = ETA * (1 - 1e-4 * next(counter))
        optimizer.step()

    return call


def many_tensors(count: int) -> Call:
    tensors = [weights_of(count // 1000) for _ in range(1000)]
    reg = Regularizer([(f"w{i}", weight) for i, weight in enumerate(tensors)], SoftDiamond(0.5), STRENGTH)
    return lambda: reg.step(ETA)


def naive_step(weight: nn.Parameter, alpha: float) -> Call:
    penalty = SoftDiamond(alpha)
    scale = float(weight.detach().square().mean().sqrt())
    lam = STRENGTH / float(penalty.omega(torch.tensor(scale), scale))

    @torch.no_grad()
    def call() -> None:
        weight.div_(1 + ETA * lam * penalty.omega(weight, scale))

    return call


@torch.no_grad()
def bare_decay(weight: Tensor) -> Tensor:
    return weight.mul_(1 - STRENGTH * ETA)


@torch.no_grad()
def subgradient(weight: Tensor, grad: Tensor) -> Tensor:
    return grad.add_(weight.sign(), alpha=STRENGTH)


def baselines(count: int) -> dict[str, tuple[Call, int]]:
    decayed, weight, grad = weights_of(count), weights_of(count), torch.randn(count).view(-1, 1000)
    return {
        "bare decay w.mul_(s)": (lambda: bare_decay(decayed), count),
        "L1 subgradient": (lambda: subgradient(weight, grad), count),
    }


def quick_ones(count: int) -> dict[str, tuple[Call, int]]:
    """Contestants by name: the call and how many weights it takes."""
    calls = baselines(count)
    for alpha in ALPHAS:
        calls[f"implicit, alpha {alpha}"] = (regularizer_step(weights_of(count), alpha), count)
    calls["implicit, alpha 0.5, lr changing"] = (regularizer_step(weights_of(count), 0.5, "changing"), count)
    calls["implicit, alpha 0.5, 1000 tensors"] = (many_tensors(count), count)
    return calls


def slow_ones(count: int) -> dict[str, tuple[Call, int]]:
    few, narrow = count // 10, torch.bfloat16
    weight, grad = weights_of(count, narrow), torch.randn(count).to(narrow).view(-1, 1000)
    return {
        **baselines(count),
        "L1 subgradient, bfloat16": (lambda: subgradient(weight, grad), count),
        "implicit, bfloat16": (regularizer_step(weights_of(count, narrow), 0.5), count),
        "implicit, center initial": (regularizer_step(weights_of(count), 0.5, center="initial"), count),
        "gradient": (regularizer_step(weights_of(count), 0.5, "gradient"), count),
        "prox": (regularizer_step(weights_of(few), 0.5, "prox"), few),
        "naive w.div_(1 + s omega(w))": (naive_step(weights_of(count), 0.5), count),
    }


def in_turns(calls: dict[str, tuple[Call, int]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Nanoseconds a weight of each call in each round; all take turns; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, (call, count) in calls.items():
            started = clock()
            call()
            times[name].append((clock() - started) * 1e9 / count)
    return {name: taken[1:] for name, taken in times.items()}


def ratios(one: list[float], other: list[float]) -> list[float]:
    return [a / b for a, b in zip(one, other, strict=True)]


def load() -> str:
    """How busy the machine is, where that can be known."""
    return f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""


def keep_memory() -> bool:
    """Have the C library keep freed memory, from now on; whether it can."""
    trim_threshold, mmap_threshold, size = -1, -3, 2**30
    try:
        change = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(change(mmap_threshold, size) and change(trim_threshold, size))


def per_weight(count: int, rounds: int, memory: str, with_slow: Sequence[int]) -> dict[int, float]:
    """Print a table for each number of threads; return the ratio of alpha 0.5 to the baseline."""
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        print(f"\none step on {count:,} weights, {threads} thread{'s' * (threads > 1)}, memory {memory}{load()}")
        print(f"{'':34}{'ms / 10^7':>10}{'ns / weight':>13}{'to bare decay':>15}{'to L1':>8}{'its quartiles':>18}")
        for make, times in ((quick_ones, rounds), (slow_ones, rounds // 4))[: 1 + (threads in with_slow)]:
            taken = in_turns(make(count), max(times // threads, 2), clock)
            bare, lasso = taken["bare decay w.mul_(s)"], taken["L1 subgradient"]
            for name, nanoseconds in taken.items():
                if make is slow_ones and nanoseconds in (bare, lasso):
                    continue
                each = statistics.median(nanoseconds)
                to_bare, to_lasso = ratios(nanoseconds, bare), ratios(nanoseconds, lasso)
                low, middle, high = statistics.quantiles(to_lasso, n=4)
                line = f"{name:34}{each * 10:10.2f}{each:13.3f}{statistics.median(to_bare):15.2f}"
                print(f"{line}{middle:8.2f}{f'{low:.2f} to {high:.2f}':>18}", flush=True)
                if name == "implicit, alpha 0.5":
                    found[threads] = middle
    torch.set_num_threads(1)
    return found


def weights(quick: bool) -> None:
    rounds = 4 if quick else 24
    found = {
        "as the allocator has it": per_weight(10_000_000, rounds, "as the allocator has it", (1,) if quick else (1, 2))
    }
    if keep_memory():
        found["kept"] = per_weight(10_000_000, rounds, "kept", () if quick else (1, 2))
    print()
    for memory, by_threads in found.items():
        verdict(f"alpha 0.5, one thread, memory {memory}", by_threads[1], 1.2, 0.6, "times the L1 subgradient")


def groups(quick: bool) -> None:
    worst = 0.0
    for shape in ((4096, 2560), (2048, 512, 3, 3), (256, 3072), (16, 65536)):
        weight = nn.Parameter(torch.randn(shape) * RMS)
        thirds = torch.arange(shape[1]).view(-1, *[1] * (len(shape) - 2)) // 3
        penalties = {"each weight": SoftDiamond(0.5)}
        penalties |= {f"by {name}": SoftDiamond(0.5, group=name) for name in ("output", "input")}
        penalties |= {
            "by head": SoftDiamond(0.5, group=("head", min(shape[0], 256))),
            "by labels": SoftDiamond(0.5, lambda _, t=thirds: t),
            "by labels of each weight": SoftDiamond(0.5, lambda w: torch.arange(w.numel()).view(w.shape) // 100),
        }
        penalties |= {"group lasso, by output": L1("output")}
        regs = {name: Regularizer([("w", weight)], penalty, 1e-6) for name, penalty in penalties.items()}
        calls = {name: (lambda reg=reg: reg.step(ETA), weight.numel()) for name, reg in regs.items()}
        taken = in_turns(calls, 6 if quick else 24, time.process_time)
        print(f"\nimplicit step on {'x'.join(map(str, shape))} weights{load()}")
        for name, nanoseconds in taken.items():
            low, middle, high = statistics.quantiles(ratios(nanoseconds, taken["each weight"]), n=4)
            each = statistics.median(nanoseconds)
            print(f"{name:34}{each:13.3f} ns / weight{middle:8.2f}{f'{low:.2f} to {high:.2f}':>18}", flush=True)
            worst = max(worst, middle)
    print()
    verdict("a step by group", worst, 2, None, "times the elementwise step")


def verdict(what: str, value: float, bound: float, aim: float | None, unit: str) -> None:
    met = "MISSED" if value > bound else "bound met" if aim is None or value > aim else "aim met"
    print(f"{what}: {value:.2f} {unit}; at most {bound:g}{'' if aim is None else f', aim {aim:g}'}: {met}")


# --- first step of a process -----------------------------------------------------------------------------------------

FIRST = """
import json, time
def lap():
    global then
    now = time.perf_counter(); taken, then = now - then, now
    return taken
then = time.perf_counter()
import torch; torch_import = lap()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
for p in model.parameters(): p.grad = torch.zeros_like(p)
lap()
from softdiamond import Regularizer, SoftDiamond; imported = lap()
reg = Regularizer(model, SoftDiamond(%s), 5e-4); made = lap()
reg.step(0.1); first = lap()
reg.step(0.1); second = lap()
reg.step(0.09); other = lap()
print(json.dumps([torch_import, imported, made, first, second, other]))
"""


def fresh(alpha: float, cache: str) -> list[float]:
    environment = {**os.environ, "SOFTDIAMOND_CACHE": cache}
    return json.loads(subprocess.check_output([sys.executable, "-c", FIRST % alpha], env=environment))


def first(quick: bool) -> None:
    repeats = 1 if quick else 5
    print(f"\nfirst steps of a fresh process, network 64-32-10, ms wall (medians of {repeats})")
    heads = "import", "make it", "1st step", "2nd step", "another lr", "sum to 1st", "import torch"
    print(f"{'alpha':>5} {'table cache':14}" + "".join(f"{head:>13}" for head in heads))
    worst = 0.0
    fresh(0.5, "off")  # reads the files
    for alpha in (0.5,) if quick else ALPHAS:
        rows: dict[str, list[list[float]]] = {"off": [], "empty": [], "filled": []}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                for state, taken in rows.items():
                    taken.append(fresh(alpha, "off" if state == "off" else folder))
        for state, runs in rows.items():
            torch_import, *times = (statistics.median(column) * 1e3 for column in zip(*runs, strict=True))
            total = statistics.median(sum(run[1:4]) for run in runs) * 1e3
            line = "".join(f"{taken:13.1f}" for taken in (*times, total, torch_import))
            print(f"{alpha:5} {state:14}{line}", flush=True)
            worst = max(worst, total)
    print()
    verdict("first step, beyond importing torch", worst / 1e3, 3, None, "s")


# --- whole training steps --------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3x3 convolutions with a short cut."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.short = nn.Sequential()
        if stride > 1 or inside != out:
            self.short = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions, plus the short cut."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.short(x))


def resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images: a 3x3 stem, no pooling before the last."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inside = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inside, out, stride), Block(out, out, 1)]
        inside = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def mlp() -> nn.Module:
    layers = nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    return nn.Sequential(nn.Flatten(), *layers)


class Training:
    """A training loop on one random batch; ``own`` holds the seconds that each step of the regularizer took.

    The same weights take both kinds of step: two copies of a network differ by more than the two kinds do.
    """

    def __init__(self, make: Callable[[], nn.Module], optimizer: Callable[..., Optimizer]) -> None:
        torch.manual_seed(0)
        self.model, self.own = make(), list[float]()
        self.images, self.labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
        self.optimizer = optimizer(self.model.parameters())
        self.regularizer = Regularizer(self.model, SoftDiamond(0.5), STRENGTH)

    def run(self, regularized: bool, rates: list[float]) -> float:
        """Seconds of CPU for one step at each of these learning rates."""
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.0 if regularized else STRENGTH
        if not regularized:
            return self._timed(rates)
        start = self.optimizer.register_step_post_hook(self._start)
        self.regularizer.attach(self.optimizer)
        stop = self.optimizer.register_step_post_hook(self._stop)
        try:
            return self._timed(rates)
        finally:
            start.remove()
            self.regularizer.detach()
            stop.remove()

    def _start(self, *_: Any) -> None:
        self._started = time.process_time()

    def _stop(self, *_: Any) -> None:
        self.own.append(time.process_time() - self._started)

    def _timed(self, rates: list[float]) -> float:
        started = time.process_time()
        for rate in rates:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            functional.cross_entropy(self.model(self.images), self.labels).backward()
            self.optimizer.step()
        return time.process_time() - started


def cosine(lr: float, steps: int) -> Iterator[float]:
    for step in itertools.count():
        yield lr * (1 + math.cos(math.pi * (step % steps) / steps)) / 2


def interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of the median by order statistics; of few values all of them."""
    values, n = sorted(values), len(values)
    rank = max(math.floor(n / 2 - 0.98 * math.sqrt(n)), 0)
    return values[rank], values[n - 1 - rank]


def compare(
    name: str, make: Callable[[], nn.Module], optimizer: Callable[..., Optimizer], lr: float, pairs: int, block: int
) -> tuple[float, tuple[float, float], float]:
    """Print a row; return the median ratio, its interval, and the regularizer's own time over the rest of its step."""
    training = Training(make, optimizer)
    rates = itertools.repeat(lr) if name.endswith("lr fixed") else cosine(lr, 1000)
    for regularized in (False, True):
        training.run(regularized, list(itertools.islice(rates, min(block, 3))))
    training.own.clear()
    taken: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs):
        now = list(itertools.islice(rates, block))
        for regularized in (False, True) if pair % 2 == 0 else (True, False):
            taken[regularized].append(training.run(regularized, now) / block)
    decay, ours = (statistics.median(taken[regularized]) for regularized in (False, True))
    quotients = ratios(taken[True], taken[False])
    ratio, (low, high) = statistics.median(quotients), interval(quotients)
    own = statistics.median(training.own)
    line = f"{name:40}{decay * 1e3:12.2f}{ours * 1e3:12.2f}{ratio:8.3f}{f'{low:.3f} to {high:.3f}':>18}"
    print(f"{line}{own * 1e3:10.3f}{own / (ours - own):9.2%}", flush=True)
    return ratio, (low, high), own / (ours - own)


def training(quick: bool) -> None:
    def sgd(**settings: Any) -> Callable[..., Optimizer]:
        return lambda parameters, **more: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, **settings, **more)

    def adamw(**settings: Any) -> Callable[..., Optimizer]:
        return lambda parameters, **more: torch.optim.AdamW(parameters, lr=1e-3, **settings, **more)

    rows = [
        ("SGD", sgd(), 0.05),
        ("SGD, lr fixed", sgd(), 0.05),
        ("SGD foreach", sgd(foreach=True), 0.05),
        ("SGD fused", sgd(fused=True), 0.05),
        ("AdamW", adamw(), 1e-3),
        ("AdamW foreach", adamw(foreach=True), 1e-3),
        ("AdamW fused", adamw(fused=True), 1e-3),
    ]
    head = f"{'weight_decay':>12}{'regularizer':>12}{'ratio':>8}{'95 % interval':>18}{'own time':>10}{'to rest':>9}"
    print("\na training step, batch 128 of 32x32, ms of CPU, one thread, lr changing each step unless said" + load())
    print(f"{'':40}{head}")
    found = []
    rows = rows[:1] + rows[3:5] + rows[6:] if quick else rows
    for name, optimizer, lr in rows:
        found.append(compare(f"MLP 3072-256-256-10, {name}", mlp, optimizer, lr, 10 if quick else 60, 5))
    pairs = 1 if quick else 10
    resnet = compare(f"ResNet-18, SGD ({pairs} pair{'s' * (pairs > 1)})", resnet18, sgd(), 0.05, pairs, 1)
    print()
    worst = max(range(len(rows)), key=lambda i: found[i][0])
    slower(f"MLP, {rows[0][0]}", found[0], 20, 10)
    slower(f"MLP, {rows[worst][0]}, the worst", found[worst], 20, 10)
    slower("ResNet-18", resnet, 1, None)


def slower(name: str, found: tuple[float, tuple[float, float], float], bound: float, aim: float | None) -> None:
    ratio, (low, high), own = found
    spread = f"({(low - 1) * 100:.2f} to {(high - 1) * 100:.2f}) % slower"
    verdict(f"{name}, by the ratio", (ratio - 1) * 100, bound, aim, spread)
    verdict(f"{name}, by the regularizer's own time", own * 100, bound, aim, "% of the rest of the step")


# --- memory ----------------------------------------------------------------------------------------------------------

MEMORY: dict[str, dict[str, Any]] = {
    "implicit": {},
    "implicit, lr changing": {"mode": "changing"},
    "implicit, transposed": {},
    "implicit, bfloat16": {"dtype": torch.bfloat16},
    "implicit, center initial": {"center": "initial"},
    "gradient": {"mode": "gradient"},
    "prox (2 million weights)": {"mode": "prox"},
    "naive w.div_(1 + s omega(w))": {},
}


def high_water() -> int:
    """High-water mark of resident memory in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def added(call: Call) -> float:
    """MiB by which a call raises the high-water mark, set back to what is resident now where the system can (Linux)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # or the call could live on memory freed before
        Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    call()
    return (high_water() - before) / MIB


def peaks_of(name: str) -> list[float]:
    """MiB that making it, its first and its third step add."""
    settings: dict[str, Any] = dict(MEMORY[name])
    weight = weights_of(2_000_000 if name.startswith("prox") else 20_000_000, settings.pop("dtype", torch.float32))
    if name.endswith("transposed"):
        weight = nn.Parameter(weight.detach().t())
    weight.grad = torch.ones_like(weight)
    make = naive_step if name.startswith("naive") else regularizer_step
    make(weights_of(1000), 0.5)()  # what is loaded once
    steps: list[Call] = []
    marks = [added(lambda: steps.append(make(weight, 0.5, **settings)))]
    marks += [added(steps[0]) for _ in range(3)]
    return [marks[0], marks[1], marks[3]]


def memory(quick: bool) -> None:
    print("\nMiB by which a step raises the high-water mark of resident memory, 20 million weights, one thread")
    print(f"{'':34}{'making it':>10}{'1st step':>10}{'3rd step':>10}")
    worst = 0.0
    for name in ("implicit", "implicit, bfloat16") if quick else MEMORY:
        answer = subprocess.check_output([sys.executable, __file__, "--peaks", name])
        marks = json.loads(answer)
        print(f"{name:34}" + "".join(f"{mark:10.1f}" for mark in marks), flush=True)
        if not name.startswith("naive"):
            worst = max(worst, *marks[1:])
    print()
    verdict("memory of a step", worst, 16, None, "MiB")


# ---------------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, pairs and rows: under a minute")
    parser.add_argument("--part", choices=PARTS, help="only this part")
    parser.add_argument("--peaks", choices=MEMORY, help=argparse.SUPPRESS)
    parser.add_argument("--eager", action="store_true", help="as if numba were not installed (not in part first)")
    options = parser.parse_args()
    if options.eager:
        _steps.compiled = lambda: None  # type: ignore[assignment]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    if options.peaks:
        print(json.dumps(peaks_of(options.peaks)))
        return
    if options.part:
        {"weights": weights, "groups": groups, "first": first, "training": training, "memory": memory}[options.part](
            options.quick
        )
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {machine}", flush=True)
    for part in PARTS:
        chosen = [flag for flag, on in (("--quick", options.quick), ("--eager", options.eager)) if on]
        subprocess.run([sys.executable, __file__, "--part", part, *chosen], check=True)


if __name__ == "__main__":
    main()
