r"""A penalty on the weights of a model, hooked to the optimizer that trains it: `Regularizer`.

**Strength and scale** are relative to the weights at the start (`softdiamond.strength`): a weight of the typical size feels the decay
that ``weight_decay=strength`` would give it, whatever the penalty, the layer and its width; smaller weights feel more, larger ones
less.

**The modes**, eta being what weight decay of that optimizer would take as its step length (`softdiamond.regularizer._rates`):

- ``implicit``: after each optimizer step w <- w / (1 + eta lambda omega(w)). One step of majorize-minimize on
  (u - w)^2 / 2 + eta lambda R(u): it lowers that objective, never changes a sign, never raises \|w\|, for any eta. omega =
  constant is decoupled weight decay. Under training it rests where grad L = -lambda omega(v) w, v the weight before this
  step: a bias of the order of eta against the minimum of L + lambda R.
- ``prox``: after each step the exact proximal map, the global minimizer of that objective. Ten times as slow or more.
- ``gradient``: before each step lambda R'(w) is added to ``.grad``, as coupled weight decay is. Unstable near 0 where
  eta lambda omega(0) > 2.

``_regularizer`` is what a user meets; ``_selection`` which weights and why, by ``_rules`` and the default, as ``_records``;
``_stepper`` the steps on all of them, ``_steps`` those on one tensor; ``_hooks`` the optimizer, ``_rates`` its step length;
``_snapshot`` what ``_describe`` and ``_state`` are made from. What must be exact lies in `softdiamond.penalties`.
"""

from softdiamond.regularizer._gap_threshold import Gap, GapThresholdResult, gap_threshold
from softdiamond.regularizer._hooks import MODES, check_choice
from softdiamond.regularizer._records import GroupsOfSize, ParameterRecord, WeightGroups
from softdiamond.regularizer._regularizer import Regularizer
from softdiamond.regularizer._rules import Rule
from softdiamond.regularizer._selection import eligible_parameters
from softdiamond.regularizer._steps import local_part

__all__ = [
    "MODES",
    "Gap",
    "GapThresholdResult",
    "GroupsOfSize",
    "ParameterRecord",
    "Regularizer",
    "Rule",
    "WeightGroups",
    "check_choice",
    "eligible_parameters",
    "gap_threshold",
    "local_part",
]
