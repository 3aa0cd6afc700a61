"""A regularizer in words: its plan, and the notes below it."""

from __future__ import annotations

from typing import Any

from softdiamond.plan import Plan
from softdiamond.regularizer._rates import checked_eta
from softdiamond.regularizer._selection import SkippedParameter
from softdiamond.regularizer._snapshot import Snapshot


def described(snapshot: Snapshot) -> Plan:
    """Return what is regularized, how strongly, what is not, and why."""
    groups = {
        id(p): (attachment, group)
        for attachment in snapshot.attachments
        for group in attachment.optimizer.param_groups
        for p in group["params"]
    }
    rows: list[dict[str, Any]] = []
    for row in snapshot.rows:
        if isinstance(row, SkippedParameter):
            rows.append(row.plan_row())
            continue
        attachment, group = groups.get(id(row.parameter), (None, {}))
        strength = snapshot.strength.at(snapshot.steps_at(attachment.place if attachment else 0), row.strength)
        about = {
            "optimizer": type(attachment.optimizer).__name__ if attachment else None,
            "eta": checked_eta(attachment.rate(attachment.optimizer, group), "the group") if attachment else None,
            "weight_decay": group.get("weight_decay") if attachment else None,
        }
        shown = row.plan_row(strength, about)
        if attachment is None and snapshot.attachments:
            shown["why"] += "; in no attached optimizer"
        rows.append(shown)
    return Plan(rows, _notes(snapshot))


def _notes(snapshot: Snapshot) -> list[str]:
    records = snapshot.records
    count = sum(record.parameter.numel() for record in records)
    notes = [
        f"regularized: {len(records)} tensors, {count:,} weights; not: {len(snapshot.rows) - len(records)} tensors"
    ]
    whose = "each tensor" if snapshot.reference == "tensor" else "the whole model"
    fixed = "given" if snapshot.strength.absolute else f"relative to the rms of {whose} at the start"
    notes.append(f"strength: the weight decay that a weight of that rms feels; scale and lambda {fixed}")
    if snapshot.center == "initial":
        size = sum(record.center.nbytes for record in records if record.center is not None)
        notes.append(f"on the distance to the initial weights, of which a copy is kept ({size / 2**20:.1f} MiB)")
    for attachment, unregistered in zip(snapshot.attachments, snapshot.unregistered, strict=True):
        name = type(attachment.optimizer).__name__
        notes.append(f"attached to {name}, mode {attachment.mode}, eta = {attachment.formula}")
        if unregistered:
            notes.append(f"that {name} also holds weight tensors that are unknown here: {unregistered}")
    notes += snapshot.zeros_notes
    if not snapshot.attachments:
        notes.append("not attached to an optimizer: attach(optimizer), or nothing happens")
    return notes
