"""Zeros held in a fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from softdiamond.penalties.groups import coupled_parameters, layout_of


def hold_zeros(model: nn.Module, optimizer: Optimizer) -> RemovableHandle:
    """Hold at 0, after each step of an optimizer, the weights that are 0 now, as a fine-tuning of a pruned network wants it.

    Parameters
    ----------
    model : Module
        Whose parameters with two or more dimensions are masked; with outputs whose weights are all 0 are held the zeros
        of their bias and their part of a normalization, so that the outputs stay dead. Other biases may start at 0 and move.
    optimizer : Optimizer
        Which trains them; its momentum does not revive what is held.

    Returns
    -------
    RemovableHandle
        ``remove()`` lets the weights go.

    Raises
    ------
    TypeError
        If it is no module, or no optimizer.
    ValueError
        If the optimizer trains none of the model's parameters.

    Examples
    --------
    >>> net = nn.Linear(2, 2)
    >>> _ = nn.init.zeros_(net.weight)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
    >>> handle = hold_zeros(net, optimizer)
    >>> net(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> int(net.weight.count_nonzero())
    0
    """
    for wanted, given in ((nn.Module, model), (Optimizer, optimizer)):
        if not isinstance(given, wanted):
            raise TypeError(f"hold_zeros takes a torch.nn.Module and its optimizer; got {type(given).__name__}")
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in trained for p in parameters.values()):
        raise ValueError("the optimizer trains none of the model's parameters: give the one that trains this model")
    masks = {name: p.detach() == 0 for name, p in parameters.items() if p.dim() >= 2}
    for name in list(masks):
        if coupled := coupled_parameters(model, name):
            outputs = layout_of("output", parameters[name], name, modules[name.rpartition(".")[0]])
            dead = outputs.norms(parameters[name].detach()) == 0
            masks |= {other: dead & (parameters[other].detach() == 0) for other in coupled}
    held = [(parameters[name], mask) for name, mask in masks.items()]

    @torch.no_grad()
    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, mask in held:
            parameter.masked_fill_(mask.to(parameter.device), 0.0)

    return optimizer.register_step_post_hook(after)
