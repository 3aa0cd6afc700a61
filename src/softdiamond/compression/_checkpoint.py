r"""The tensors of a checkpoint, read without its code: a ``.safetensors`` file, or what ``torch.save`` wrote of tensors.

What an **optimizer** keeps in a training checkpoint is no weight: tensors under ``state`` and ``param_groups`` of a dict with both,
as ``optimizer.state_dict()`` returns it, are not returned; others are recognised by name (`is_optimizer_state`).
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

OPTIMIZER_STATE = "state of an optimizer"  # in place of a tensor
OPTIMIZER_NAMES = ("optimizer", "optimizer_state", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
_OPTIMIZER = re.compile(  # OPTIMIZER_NAMES, the second also in the plural and with _dict
    r"(^|\.)(optimizers?(_states?(_dict)?)?|(max_)?exp_avg(_sq)?|momentum_buffer)(\.|$)", re.IGNORECASE
)
PICKLE = b"\x80"  # the start of a pickle
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the start of what torch.save wrote when it wrote no zip archives
STATE_DICT_ALONE = (
    "refused, since it could run code of its own. Save the state dict alone: torch.save(model.state_dict(), path)"
)

TensorInfo = tuple[str, tuple[int, ...], str]  # name, shape, dtype
Reader = Callable[[int], Tensor | str]  # of the tensor with this number, or why there is none


def read_tensors(
    path: Path, on_tensor: Callable[[str], None] | None = None
) -> Iterator[tuple[str, tuple[int, ...], str, Tensor | str]]:
    """Yield name, shape and dtype of each tensor of a checkpoint, and the tensor, or why it cannot be read.

    The file is mapped into memory, and opened anew when more was read than its largest tensor holds.

    Raises
    ------
    ValueError, OSError
        If the file is damaged, of another kind, or a pickle of more than tensors; if it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(len(LEGACY))
    if path.suffix == ".safetensors":
        read_all = partial(_safetensors, path)
    elif path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        read_all = partial(_pickle, path, start)
    else:
        raise ValueError(
            f"{path} is of an unknown kind: a checkpoint is a file with the ending .safetensors, .pt, .pth, .bin or .ckpt"
        )
    listed, read = read_all()
    largest, seen = max(math.prod(shape) for _, shape, _ in listed), 0
    for number, (name, shape, dtype) in enumerate(listed):
        if on_tensor is not None:
            on_tensor(name)
        if seen > largest:
            del read
            _, read = read_all()
            seen = 0
        seen += math.prod(shape)
        yield name, shape, dtype, read(number)


def _safetensors(path: Path) -> tuple[list[TensorInfo], Reader]:
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from None
    names = list(file.keys())
    if not names:
        raise ValueError(f"{path} holds no tensors")
    parts = [file.get_slice(name) for name in names]
    listed = [(n, tuple(part.get_shape()), str(part.get_dtype())) for n, part in zip(names, parts, strict=True)]

    def read(number: int) -> Tensor | str:
        try:
            tensor: Tensor = file.get_tensor(names[number])
            return tensor
        except (SafetensorError, KeyError, TypeError, AttributeError) as error:  # a dtype that this torch has not
            return f"cannot be read: {error}"

    return listed, read


def _pickle(path: Path, start: bytes) -> tuple[list[TensorInfo], Reader]:
    mapped = start[:2] == b"PK"
    if mapped and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is damaged: its end is missing")
    if not mapped and start != LEGACY:
        other = "no file of torch.save" if start else "empty"
        raise ValueError(f"{path} is {f'a plain pickle: {STATE_DICT_ALONE}' if start[:1] == PICKLE else other}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except (OSError, MemoryError):  # of the disk or the machine, not of the file
        raise
    except Exception as error:  # whatever a damaged file, or the unpickler, raises
        raise ValueError(f"{path} is {_refusal(error)}") from None
    found = list(_walk(content, "", False))
    if not found:
        raise ValueError(f"{path} holds no tensors")
    listed = [(name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t, _ in found]
    return listed, lambda number: OPTIMIZER_STATE if found[number][2] else found[number][1]


def _refusal(error: Exception) -> str:
    text = str(error)
    if needed := re.search(r"GLOBAL ([\w.]+)", text):
        return f"a pickle of more than tensors, which needs {needed[1]}: {STATE_DICT_ALONE}"
    if "TorchScript" in text:
        return f"a TorchScript archive: {STATE_DICT_ALONE}"
    if isinstance(error, pickle.UnpicklingError):
        return f"damaged, or a pickle of more than tensors: {STATE_DICT_ALONE}"
    return "damaged, or no file of torch.save"


def _walk(content: Any, name: str, in_optimizer: bool) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield name and tensor of each that is there, and whether an optimizer keeps it."""
    if isinstance(content, Tensor):
        yield name or "tensor", content.detach(), in_optimizer
    elif isinstance(content, Mapping):
        own = {"state", "param_groups"} if {"state", "param_groups"} <= content.keys() else {}
        for key, value in content.items():
            yield from _walk(value, f"{name}.{key}" if name else str(key), in_optimizer or key in own)
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _walk(value, f"{name}.{index}" if name else str(index), in_optimizer)


def is_optimizer_state(name: str) -> bool:
    """Whether a part of a tensor's name, between dots, is one that an optimizer gives to its state (`OPTIMIZER_NAMES`)."""
    return _OPTIMIZER.search(name) is not None


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a state dict, or that of the network in a training checkpoint, from a file of tensors.

    Raises
    ------
    ValueError
        If it cannot be read, or its tensors are not the network's.
    """
    try:
        state = {name: tensor.clone() for name, _, _, tensor in read_tensors(path) if isinstance(tensor, Tensor)}
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error
    own = net.state_dict(keep_vars=True)
    if not state.keys() & own.keys():  # of a training checkpoint, most likely
        heads = dict.fromkeys(head for name in state for head, _, rest in [name.partition(".")] if rest in own)
        if len(heads) > 1:
            raise ValueError(
                f"{path} holds several state dicts of the network, under {', '.join(heads)}: save one alone"
            )
        for head in heads:
            state = {name.removeprefix(f"{head}."): w for name, w in state.items() if name.startswith(f"{head}.")}
    tied = [name for name in own if name not in state]
    try:
        missing, unknown = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first, *others = str(error).splitlines()[1:] or [str(error)]  # of torch's list, below its heading
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(f"the weights of {path} do not fit: {first.strip()}{more}") from error
    loaded = {own[name].data_ptr() for name in state if name in own}
    if unknown or any(own[name].data_ptr() not in loaded for name in missing if name in tied):
        raise ValueError(
            f"the weights of {path} do not fit: {len(missing)} tensors are missing, {len(unknown)} unknown"
            + (f", {(list(unknown) or list(missing))[0]} for one" if unknown or missing else "")
        )
