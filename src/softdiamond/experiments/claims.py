"""The testable sentences of the abstracts of arXiv:2412.20724, each with its test, written down before any figure.

A **claim** is a sentence, or the part of one that can be tested alone. What it says can be taken in more than one way, so it
has **readings**: a quantity of one method minus that of another, the better of the two being the first where the difference
is positive. A reading is tested wherever the sentence says that it holds: on each data set, or beside each other regularizer.
`softdiamond.experiments.verdicts` judges them.

The abstracts do not name the networks nor how strengths were chosen, version 1 no alpha. So *a soft diamond*, where the
sentence names no alpha, is the one of the card's that tuning found best on validation (and, of sparsity, that of alpha 0.5
too, which version 2 recommends), and the nets are those of the cards. Caltech-101, of the same authors and layout, stands in
for Caltech-256.

Sources: version 1 of 30 December 2024, *Training Deep Neural Classifiers with Soft Diamond Regularizers*; version 2 of
12 September 2025, *Soft Diamond Regularizers for Deep Learning*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from softdiamond.experiments.card import Method, Treatment

Unit = Literal["points", "% of the accuracy", "% of the error"]


@dataclass(frozen=True)
class Methods:
    """Which of a card's methods are meant, by what they are and not by their labels; None: any.

    Of several, the one whose chosen setting had the highest validation accuracy stands for all.
    """

    words: str
    penalty: str
    alpha: float | None = None
    reference: str | None = None
    modes: tuple[str, ...] | None = None

    def matches(self, method: Method) -> bool:
        """Say whether a method is one of them."""
        return (
            self.penalty == method.penalty
            and self.alpha in (None, method.alpha)
            and self.reference in (None, method.reference)
            and (self.modes is None or method.mode in self.modes)
        )


@dataclass(frozen=True)
class Quantity:
    """A number of a final run, of which more is claimed to be better, and the unit of a difference of two."""

    words: str
    column: str  # in the values of `softdiamond.experiments.summary.Row`
    unit: Unit = "points"

    def change(self, ours: float, theirs: float) -> float:
        """Return the difference of two shares in the quantity's unit, 0.01 being one point or one per cent.

        ``ours - theirs`` in points; divided by ``theirs`` in per cent of the accuracy; divided by ``1 - theirs`` in per
        cent of the error. NaN where the divisor is 0.
        """
        divisor = {"points": 1.0, "% of the accuracy": theirs, "% of the error": 1.0 - theirs}[self.unit]
        return (ours - theirs) / divisor if divisor else float("nan")


@dataclass(frozen=True)
class Place:
    """Where a sentence is tested: the data set (or other regularizer) that it names, and the card that has it.

    ``combined_with`` are the other regularizers of the card's treatment: dropout, batch_norm, augmentation. Places of one name
    stand in for each other: the first that is tested counts; ``stand_in`` says what a later one has instead.
    """

    name: str
    card: str  # "": the library has none
    combined_with: frozenset[str] = frozenset()
    stand_in: str = ""

    def matches(self, treatment: Treatment) -> bool:
        """Say whether a treatment is the place's."""
        there = {name for name in ("dropout", "batch_norm") if treatment.options.get(name)}
        if treatment.augmentation not in (None, "none"):
            there.add("augmentation")
        return there == self.combined_with


@dataclass(frozen=True)
class Reading:
    """One way to take a sentence: a quantity of ``ours`` minus that of ``theirs``, above ``least``, at all places."""

    ours: Methods
    theirs: Methods
    quantity: Quantity
    places: tuple[Place, ...]
    least: float = 0.0

    @property
    def words(self) -> str:
        """The test in words."""
        unit = "points" if self.quantity.unit == "points" else self.quantity.unit
        least = f"{100 * self.least:+g}".replace("-", "−") if self.least else "0"
        return f"{self.quantity.words}: {self.ours.words} minus {self.theirs.words}, above {least} {unit}"


@dataclass(frozen=True)
class Claim:
    """A sentence of an abstract in its own words, where it stands, and its readings; ``amounts``, the figures in it, by place."""

    sentence: str
    version: Literal["v1", "v2"]
    readings: tuple[Reading, ...]
    amounts: Mapping[str, float] = field(default_factory=dict)
    remark: str = ""

    @property
    def source(self) -> str:
        """The source in words."""
        return f"arXiv:2412.20724{self.version}, abstract"


NONE = Methods("no penalty", "none")
L2 = Methods("L2", "L2")
L1 = Methods("the L1 that tuning found best", "L1")
SOFT = Methods("the soft diamond that tuning found best", "soft diamond")
PAPERS = Methods("the soft diamond added to the loss, the paper's own form", "soft diamond", modes=("gradient", "loss"))


def soft(alpha: float, reference: str = "tensor") -> Methods:
    """Return the soft diamond of an alpha, taken by the implicit step, with each tensor's scale or one prior for all."""
    scale = {"tensor": "each tensor's own scale", "model": "one prior for all"}[reference]
    return Methods(f"alpha {alpha:g}, {scale}", "soft diamond", alpha, reference, ("implicit",))


HALF = (soft(0.5), soft(0.5, "model"))

ACCURACY = Quantity("Test accuracy", "test")
ACCURACIES = (
    ACCURACY,
    Quantity("Test accuracy", "test", "% of the accuracy"),
    Quantity("Test accuracy", "test", "% of the error"),
)
SPARSITIES = (
    Quantity("Share of weights below 0.001", "below_1e-3"),
    Quantity("Share of weights below 0.01", "below_1e-2"),
    Quantity("Share of weights below 0.01 of the largest", "below_1e-2_of_largest"),
    Quantity("Share that can be removed at half a point of validation accuracy", "prunable_global"),
)

CIFAR_10 = Place("CIFAR-10", "cifar10-wide")
IMAGES = (
    CIFAR_10,
    Place("CIFAR-100", "cifar100-wide"),
    Place("Caltech-256", "caltech256-wide"),
    Place("Caltech-256", "caltech101-wide", stand_in="Caltech-101, of the same authors and layout"),
)
COMBINED = tuple(
    Place(f"CIFAR-10 with {words}", "cifar10-wide-combinations", frozenset({other}))
    for words, other in (
        ("dropout", "dropout"),
        ("batch normalization", "batch_norm"),
        ("augmentation", "augmentation"),
    )
)
TRANSLATION = (Place("IWSLT-2016", ""),)
COMPETITIVE, SUBSTANTIAL = -0.005, 0.01  # at most half a point behind; more than one point ahead


def _readings(
    ours: Sequence[Methods],
    theirs: Sequence[Methods],
    quantities: Sequence[Quantity] = (ACCURACY,),
    places: tuple[Place, ...] = IMAGES,
    least: float = 0.0,
) -> tuple[Reading, ...]:
    return tuple(Reading(a, b, quantity, places, least) for quantity, a, b in product(quantities, ours, theirs))


CLAIMS = (
    Claim(
        "The improvements included 4.57% on CIFAR-10, 4.27% on CIFAR-100, and 6.69% on Caltech-256.",
        "v1",
        (
            *_readings([SOFT], [NONE, L2], ACCURACIES),
            *_readings([PAPERS], [NONE, L2], ACCURACIES, (CIFAR_10,)),
        ),
        {"CIFAR-10": 0.0457, "CIFAR-100": 0.0427, "Caltech-256": 0.0669},
        "It is not said of what the per cent are, nor against what: all three meanings, against no penalty and against L2.",
    ),
    Claim("The regularizers improved the accuracy of the classifiers.", "v1", _readings([SOFT], [NONE])),
    Claim("They also outperformed L2 regularizers on all the test cases.", "v1", _readings([SOFT], [L2])),
    Claim(
        "These parametrized regularizers outperform the state-of-the-art hard-diamond Laplacian regularizer",
        "v1",
        _readings([SOFT], [L1]),
        remark="In accuracy; sparsity has a sentence of its own.",
    ),
    Claim(
        "Soft diamond regularizers also outperformed L1 lasso or Laplace regularizers because they better increased sparsity",
        "v1",
        _readings([SOFT, soft(0.5)], [L1], SPARSITIES),
        remark="It is not said how sparsity is measured: every usual definition. Strengths were chosen for accuracy alone; "
        "the alpha that version 2 recommends stands beside the best in accuracy. The rest of the sentence, that accuracy "
        "improves, is tested with the second.",
    ),
    Claim(
        "We introduce new soft diamond regularizers that […] improve synaptic sparsity",
        "v1",
        _readings([SOFT, soft(0.5)], [NONE], SPARSITIES),
        remark="Against no penalty, by every usual definition.",
    ),
    Claim(
        "soft diamond regularizers that […] maintain classification accuracy",
        "v1",
        _readings([SOFT], [NONE], least=COMPETITIVE),
        remark="Against no penalty: at most half a point lower.",
    ),
    Claim(
        "Soft-diamond priors substantially improved accuracy on CIFAR-10 when combined with dropout, batch, or "
        "data-augmentation regularization.",
        "v1",
        (
            *_readings([SOFT], [NONE], places=COMBINED),
            *_readings([SOFT], [NONE], places=COMBINED, least=SUBSTANTIAL),
        ),
        remark="Against the other regularizer alone. How much is substantial is not said: any improvement, and more than one point.",
    ),
    Claim(
        "They outperformed the state-of-the-art hard-diamond Laplacian regularizer of sparse lasso regression and classification.",
        "v2",
        _readings(HALF, [L1]),
        remark="With the alpha that this version recommends.",
    ),
    Claim(
        "The regularizers improved the accuracy and sparsity of the classifiers.",
        "v2",
        (*_readings(HALF, [NONE]), *_readings(HALF, [NONE], SPARSITIES)),
        remark="With the alpha that this version recommends, against no penalty.",
    ),
    Claim(
        "They also outperformed ridge regularizers and lasso regularizers.",
        "v2",
        _readings([soft(0.5)], [L2, L1], (Quantity("Translation", "test"),), TRANSLATION),
        remark="Said of German-to-English translation on the IWSLT-2016 Evaluation set.",
    ),
    Claim(
        "These findings recommend the sub-Cauchy α = 0.5 soft diamond regularizer",
        "v2",
        _readings([soft(0.5)], [soft(1.0), soft(1.5)]),
        remark="Against the other alphas of the cards, in accuracy.",
    ),
    Claim(
        "the sub-Cauchy α = 0.5 soft diamond regularizer as a competitive […] regularizer",
        "v2",
        _readings(HALF, [L2, L1], least=COMPETITIVE),
        remark="Said of alpha 0.5: at most half a point of accuracy behind.",
    ),
    Claim(
        "the sub-Cauchy α = 0.5 soft diamond regularizer as a […] sparse regularizer",
        "v2",
        _readings(HALF, [L2], SPARSITIES),
        remark="Said of alpha 0.5: sparser than L2. Against L1 there is a sentence of version 1.",
    ),
)
