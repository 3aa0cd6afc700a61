"""What a regularizer says of itself: its plan, and the notes below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softdiamond.plan import Plan
from softdiamond.regularizer._plan import Skipped
from softdiamond.regularizer._rates import checked_eta

if TYPE_CHECKING:
    from softdiamond.regularizer import Regularizer


def described(reg: Regularizer) -> Plan:
    """Return what is regularized, how strongly, what is not, and why."""
    groups = {
        id(p): (attachment, group)
        for attachment in reg._attachments
        for group in attachment.optimizer.param_groups
        for p in group["params"]
    }
    records: list[dict[str, Any]] = []
    for row in reg._rows:
        if isinstance(row, Skipped):
            records.append(row.record())
            continue
        attachment, group = groups.get(id(row.parameter), (None, {}))
        strength = reg._strength_of(row, reg._count(attachment.place if attachment else 0))
        about = {
            "optimizer": type(attachment.optimizer).__name__ if attachment else None,
            "eta": checked_eta(attachment.rate(attachment.optimizer, group), "the group") if attachment else None,
            "weight_decay": group.get("weight_decay") if attachment else None,
        }
        record = row.record(strength, about)
        if attachment is None and reg._attachments:
            record["why"] += "; in no attached optimizer"
        records.append(record)
    return Plan(records, _notes(reg))


def _notes(reg: Regularizer) -> list[str]:
    entries = reg._entries()
    count = sum(entry.parameter.numel() for entry in entries)
    notes = [f"regularized: {len(entries)} tensors, {count:,} weights; not: {len(reg._rows) - len(entries)} tensors"]
    whose = "each tensor" if reg._reference == "tensor" else "the whole model"
    fixed = "given" if reg._strength.absolute else f"relative to the rms of {whose} at the start"
    notes.append(f"strength: the weight decay that a weight of that rms feels; scale and lambda {fixed}")
    if reg._center == "initial":
        size = sum(entry.centre.nbytes for entry in entries if entry.centre is not None)
        notes.append(f"on the distance to the initial weights, of which a copy is kept ({size / 2**20:.1f} MiB)")
    for attachment in reg._attachments:
        name = type(attachment.optimizer).__name__
        notes.append(f"attached to {name}, mode {attachment.mode}, eta = {attachment.formula}")
        if strangers := reg._strangers(attachment.optimizer.param_groups):
            notes.append(f"that {name} also holds weight tensors that are unknown here: {strangers}")
    notes += reg._zeros.notes(entries, reg._count(0))
    if not reg._attachments:
        notes.append("not attached to an optimizer: attach(optimizer), or nothing happens")
    return notes
