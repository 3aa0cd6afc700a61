"""`export`: a network as a file, and what its zeros save there; `load`: back again.

**Compressed rows** (format ``csr``). A safetensors file. A tensor W with two or more dimensions is read as a matrix of ``shape[0]`` rows
and ``numel / shape[0]`` columns (the other dimensions in their order); where that takes fewer bytes it is stored as

==============================  =============================================================================================
``NAME.csr.values``             the entries that are not 0, row by row, in W's dtype, shape (n,)
``NAME.csr.columns``            the column of each: uint8, uint16 or int32, the narrowest that holds the last column
``NAME.csr.starts``             int32 (int64 from 2^31 entries on), shape (rows + 1,): row i has the entries starts[i] to starts[i + 1]
==============================  =============================================================================================

and its shape in the file's metadata, ``softdiamond.csr``: JSON, ``{"NAME": {"shape": [...]}}``. All other tensors are stored as they are.
All comes back bit for bit but for the sign of zeros: -0, which a product with a mask leaves behind, is stored as 0.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from softdiamond._extras import install
from softdiamond.compression._calls import evaluated, flat, naming_layer
from softdiamond.compression._profile import dense_bytes, dense_state

FORMATS = ("safetensors", "csr", "onnx", "state_dict")
ONNX_TOLERANCE = 1e-4  # of the outputs, in units of their largest: another runtime, other kernels


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote.

    Attributes
    ----------
    path : Path
        The file.
    format : str
        Its format.
    bytes, dense_bytes : int
        Its size, and that of the dense safetensors file.
    tensors : dict of str to (int, int)
        Of the format csr, for each tensor that could be compressed: bytes dense, bytes compressed; stored was the lesser.
    """

    path: Path
    format: str
    bytes: int
    dense_bytes: int
    tensors: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        text = f"{self.path}: {self.format}, {self.bytes:,} bytes on disk, {self.bytes / self.dense_bytes:.3f} of dense safetensors"
        if losing := [name for name, (dense, compressed) in self.tensors.items() if compressed >= dense]:
            text += f"; compressed rows lose to dense, and were not taken, for {', '.join(losing)}"
        return text


def export(
    model: nn.Module, path: str | Path, format: str = "safetensors", *, example_input: Any = None
) -> ExportResult:
    """Write a network to a file, whole or not at all.

    Parameters
    ----------
    model : Module
        Its zeros are stored as they are; nothing is pruned here.
    path : str or Path
        The file; it is written beside it and renamed.
    format : {"safetensors", "csr", "onnx", "state_dict"}
        Dense safetensors; with compressed rows, for `load`; ONNX, by torch's own exporter, checked by onnxruntime on
        the example (the extra ``onnx``); or what ``load_state_dict`` takes, by ``torch.save``.
    example_input : Tensor, or tuple of them
        What one call takes; for ONNX.

    Raises
    ------
    ImportError
        If the extra for ONNX is not installed.
    ValueError
        If there is no such format, or ONNX cannot be exported, or computes something else.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> net = nn.Linear(1000, 100)
    >>> _ = net.weight.data[:, 20:].zero_()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export(net, f"{folder}/net.safetensors", "csr")
    ...     same = torch.equal(load(done.path)["weight"], net.weight)
    >>> same, done.bytes < 0.05 * done.dense_bytes
    (True, True)
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
    path, tensors = Path(path), dict[str, tuple[int, int]]()
    if format == "onnx":
        _written(path, lambda new: _to_onnx(model, new, example_input))
    elif format == "state_dict":
        _written(path, lambda new: torch.save(model.state_dict(), new))
    elif format == "csr":
        state, about, tensors = compressed_state(dense_state(model))
        _written(path, lambda new: new.write_bytes(to_bytes(state, about)))
    else:
        _written(path, lambda new: new.write_bytes(to_bytes(dense_state(model))))
    size = path.stat().st_size
    return ExportResult(path, format, size, size if format == "safetensors" else dense_bytes(model), tensors)


def _written(path: Path, write: Callable[[Path], Any]) -> None:
    if path.is_dir() or not path.parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise OSError(f"cannot write {path}: {why}")
    new = path.with_name(f"{path.name}.new")
    try:
        new.touch()
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from None
    try:
        write(new)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


# ---- compressed rows --------------------------------------------------------------------------------------------------


def compressed_state(
    state: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, tuple[int, int]]]:
    """Return tensors and metadata of the file, and the bytes of each tensor dense and compressed."""
    stored: dict[str, Tensor] = {}
    shapes: dict[str, Any] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for name, w in state.items():
        if w.dim() < 2 or not w.is_floating_point() or not w.numel():
            stored[name] = w
            continue
        parts = _rows_of(w)
        sizes[name] = (w.nbytes, sum(part.nbytes for part in parts.values()))
        if sizes[name][1] < sizes[name][0]:
            stored |= {f"{name}.csr.{part}": value for part, value in parts.items()}
            shapes[name] = {"shape": list(w.shape)}
        else:
            stored[name] = w
    return stored, {"softdiamond.csr": json.dumps(shapes)}, sizes


def _rows_of(w: Tensor) -> dict[str, Tensor]:
    matrix = w.reshape(w.shape[0], -1)
    filled = matrix != 0
    rows, columns = filled.nonzero(as_tuple=True)
    width = matrix.shape[1]
    kind = torch.uint8 if width <= 1 << 8 else torch.uint16 if width <= 1 << 16 else torch.int32
    counts = torch.bincount(rows, minlength=w.shape[0])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    narrow = torch.int32 if len(rows) < 1 << 31 else torch.int64
    return {"values": matrix[filled], "columns": columns.to(kind), "starts": starts.to(narrow)}


def load(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict of a file with compressed rows, dense and bit for bit as it was (-0 as 0); also of a dense safetensors file.

    Parameters
    ----------
    path : str or Path
        What ``export(..., format="csr")`` wrote.

    Raises
    ------
    ValueError
        If the file is damaged.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    with path.open("rb"):
        pass
    try:
        with safe_open(path, framework="pt") as file:
            shapes = json.loads((file.metadata() or {}).get("softdiamond.csr", "{}"))
            state = {}
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                base, _, part = name.rpartition(".csr.")
                if base not in shapes:
                    state[name] = file.get_tensor(name)
                elif part == "values":
                    parts = {part: file.get_tensor(f"{base}.csr.{part}") for part in ("values", "columns", "starts")}
                    state[base] = _dense(shapes[base]["shape"], **parts)
            return state
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} is damaged, or no file with compressed rows: {error}") from None


def _dense(shape: list[int], values: Tensor, columns: Tensor, starts: Tensor) -> Tensor:
    matrix = torch.zeros(shape[0], math.prod(shape[1:]), dtype=values.dtype)
    rows = torch.repeat_interleave(torch.arange(shape[0]), starts.long().diff())
    matrix[rows, columns.long()] = values
    return matrix.reshape(shape)


# ---- ONNX -------------------------------------------------------------------------------------------------------------


def _to_onnx(model: nn.Module, path: Path, example_input: Any) -> None:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise ImportError(f"ONNX needs onnx, onnxscript and onnxruntime: {install('onnx')}") from error
    if example_input is None:
        raise ValueError("ONNX needs example_input, what one call of the model takes")
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    with evaluated(model):
        with naming_layer("the model does not take the example", model), torch.no_grad():
            expected = flat(model(*inputs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                torch.onnx.export(model, inputs, path, dynamo=True, external_data=False, verbose=False)
            except Exception as error:  # whatever torch's exporter raises
                reason = " ".join(str(error).split())[:300]
                raise ValueError(f"torch cannot export the model to ONNX: {reason}") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    outputs = session.run(None, {name: x.detach().cpu().numpy() for name, x in zip(names, inputs, strict=True)})
    found = torch.cat([torch.from_numpy(each).flatten().double() for each in outputs])
    worst = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    if not worst <= ONNX_TOLERANCE:
        raise ValueError(f"the ONNX file computes something else: outputs differ by {worst:.2g} of the largest")
