"""The card of a comparison: a TOML file that states every assumption, checked key by key.

`find` reads a card that ships, by name, or the user's own, by path. A card's `Card.digest` names its runs: it hashes all
values but the title and the final seeds, so that seeds can be added later and comments changed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from softdiamond.experiments import UserError


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if twice := [value for index, value in enumerate(values) if value in values[:index]]:
        raise ValueError(f"{twice[0]} stands there twice")
    return values


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Once = AfterValidator(_each_once)
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1), Once]
Strengths = Annotated[tuple[Positive, ...], Field(min_length=1), Once]
Way = Literal["once", "fine-tuned", "gradual"]
Division = Literal["global", "relative", "layerwise"]
Unit = Literal["weight", "output"]
Augmentation = Literal["none", "crop and flip"]

EXCLUDED: Any = {"title": True, "final": {"seeds"}}  # from the digest
QUICK_SIZES = {"train": 512, "validation": 256, "test": 256}


class CardTable(BaseModel):
    """A table of a card: no key that it does not know, no value of another type, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(CardTable):
    """Data set and its division; ``train`` and ``validation`` count images, of each class if ``per_class``."""

    name: str
    train: Count
    validation: Count
    test: Count | None = None  # None: all that there is
    per_class: bool = False
    classes: Count | None = None  # of the set; needed where total decays are given and images counted by class


class Model(CardTable):
    """Network: a name or module:function, and the options that its function takes."""

    name: str
    options: dict[str, Any] = {}


class Training(CardTable):
    """Optimizer, schedule, augmentation, and how it is computed: what all methods share.

    ``precision`` bf16 computes the network under ``torch.autocast``, with weights, penalty and all that is measured in
    float32; ``compile`` lets ``torch.compile`` make the network's kernels.
    """

    optimizer: Literal["SGD", "AdamW"]
    rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0)] = 0.0
    epochs: Count
    batch: Count
    augmentation: Augmentation = "none"
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = False
    compile: bool = False

    def rate_factor(self, step: int, steps_per_epoch: int) -> float:
        """Factor of the learning rate: a linear warmup, then 1, or a cosine to 0 over all steps."""
        steps, warmup = self.epochs * steps_per_epoch, self.warmup * steps_per_epoch
        rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return rising * (0.5 * (1.0 + math.cos(math.pi * step / steps)) if self.schedule == "cosine" else 1.0)

    def sum_of_rates(self, examples: int) -> float:
        """Sum of the learning rates of all steps; of SGD in units that count momentum: rate / (1 - momentum)."""
        per_epoch = math.ceil(examples / self.batch)
        factors = sum(self.rate_factor(step, per_epoch) for step in range(self.epochs * per_epoch))
        return factors * self.rate / (1.0 - self.momentum if self.optimizer == "SGD" else 1.0)


class Method(CardTable):
    """A penalty and how it acts; ``alpha`` belongs to the soft diamond alone, ``group`` to it and to L1.

    Settings are relative to each tensor's initial rms, or, of a soft diamond with ``dispersions`` and ``lambdas``, absolute:
    one prior for all weights, every pair of the two a trial. By output, the last layer, whose outputs are the classes, is
    grouped by its inputs instead.
    """

    penalty: Literal["none", "L2", "L1", "soft diamond"]
    alpha: Annotated[float, Field(ge=0.1, le=2)] | None = None
    relative_scale: Positive | None = None
    mode: Literal["implicit", "prox", "gradient", "loss"] = "implicit"
    reference: Literal["tensor", "model"] = "tensor"
    group: Literal["input", "output"] | None = None  # None: each weight by itself
    strengths: Strengths | None = None  # None: those of [tuning]
    dispersions: Strengths | None = None
    lambdas: Strengths | None = None
    name: str = ""  # "": made from the above

    @model_validator(mode="after")
    def _consistent(self) -> Method:
        soft = self.penalty == "soft diamond"
        if soft and self.alpha is None:
            raise ValueError("alpha is missing: a soft diamond needs one in [0.1, 2]")
        if not soft and (self.alpha is not None or self.relative_scale is not None):
            raise ValueError(f"alpha and relative_scale belong to a soft diamond, not to {self.penalty}")
        if self.group is not None and self.penalty not in ("L1", "soft diamond"):
            raise ValueError(f"group belongs to L1 and to a soft diamond, not to {self.penalty}")
        if self.penalty == "none" and self.strengths is not None:
            raise ValueError("none has no strengths")
        if not soft and (self.dispersions is not None or self.lambdas is not None):
            raise ValueError(f"dispersions and lambdas belong to a soft diamond, not to {self.penalty}")
        if (self.dispersions is None) != (self.lambdas is None):
            raise ValueError("dispersions and lambdas go together: absolute settings")
        if self.dispersions is not None and (
            self.strengths is not None or self.relative_scale is not None or self.reference == "model"
        ):
            raise ValueError("with dispersions and lambdas, leave strengths, relative_scale and reference out")
        return self

    @property
    def effective_mode(self) -> str:
        """The mode; of L1 the prox in place of an implicit step: soft thresholding, with exact zeros; of none nothing."""
        if self.penalty == "none":
            return ""
        return "prox" if self.penalty == "L1" and self.mode == "implicit" else self.mode

    @property
    def label(self) -> str:
        """The penalty, its alpha, and what differs from the default."""
        if self.name:
            return self.name
        alpha = "" if self.alpha is None else f" {self.alpha:g}"
        scale = "" if self.relative_scale in (None, 1.0) else f", scale {self.relative_scale:g}"
        group = "" if self.group is None else f" by {self.group}"
        mode = "" if self.mode == "implicit" else f", {self.mode}"
        prior = ", one rms" if self.reference == "model" else ", absolute" if self.dispersions else ""
        return f"{self.penalty}{alpha}{group}{scale}{prior}{mode}"


class Tuning(CardTable):
    """Trials: every strength (and rate) of every method on the same tuning seeds.

    A strength is the equivalent weight decay at a tensor's initial rms, or it is given as a total decay: strength times
    `Training.sum_of_rates`.

    Chosen is the highest mean validation accuracy, or the strongest within ``tolerance`` points of it. A choice at the end
    of its range adds up to ``widen`` strengths beyond it.
    """

    strengths: Strengths | None = None
    total_decays: Strengths | None = None
    rates: Strengths | None = None  # None: [training] rate
    seeds: Seeds
    tolerance: Annotated[float, Field(ge=0, le=100)] = 0.0
    widen: Annotated[int, Field(ge=0, le=10)] = 2

    @model_validator(mode="after")
    def _consistent(self) -> Tuning:
        if (self.strengths is None) == (self.total_decays is None):
            raise ValueError("give either strengths or total_decays")
        if self.total_decays is not None and self.rates is not None:
            raise ValueError("total_decays belong to one learning rate: leave rates out, or give strengths")
        return self


class Final(CardTable):
    """Fresh seeds on which chosen settings are trained, and the method that the others are compared with."""

    seeds: Seeds
    baseline: str = "L2"


class Sparsity(CardTable):
    """Curve of accuracy against the share removed after training, and what the prunable share may cost, in points."""

    curve: tuple[Share, ...] = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
    lost: Annotated[float, Field(ge=0, le=100)] = 0.5

    @field_validator("curve")
    @classmethod
    def _rising(cls, curve: tuple[float, ...]) -> tuple[float, ...]:
        return _rising_from(0.0, curve)


class Removal(CardTable):
    """Shares at which methods are compared, each with the setting chosen for it, and the ways of removing.

    ``unit`` is what is removed and counted: single weights, or outputs of hidden layers (neurons and filters), each with its
    weights, its bias and what a normalization that follows has for it.
    """

    unit: Unit = "weight"
    shares: tuple[Share, ...] = (0.0,)
    ways: Annotated[tuple[Way, ...], Field(min_length=1), Once] = ("once",)
    divisions: Annotated[tuple[Division, ...], Field(min_length=1), Once] = ("global",)
    fine_tuning_epochs: Count = 2
    fine_tuning_rate: Positive = 0.1  # in units of the training's
    gradual_from: Share = 0.8  # smallest share that is removed gradually
    gradual_tuned_at: Annotated[tuple[Share, ...], Once] = (0.95, 0.98)
    gradual_begin: Annotated[float, Field(ge=0, le=1)] = 0.1
    gradual_end: Annotated[float, Field(ge=0, le=1)] = 0.7

    @property
    def units(self) -> str:
        """The unit in words, of many."""
        return f"{self.unit}s"

    @field_validator("shares")
    @classmethod
    def _rising(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        return _rising_from(0.0, shares)

    @model_validator(mode="after")
    def _ordered(self) -> Removal:
        if not self.gradual_begin < self.gradual_end:
            raise ValueError("gradual_begin must be below gradual_end")
        if "gradual" in self.ways and not self.gradual_tuned_at:
            raise ValueError("gradual_tuned_at must name a share at which the gradual way is tuned")
        if self.ways == ("gradual",) and max(self.shares) < self.gradual_from:
            raise ValueError(
                f"no share of shares reaches gradual_from, {self.gradual_from:g}: nothing is removed gradually"
            )
        return self


class Treatment(CardTable):
    """What is combined with every method: options of the model, augmentation."""

    name: str
    options: dict[str, Any] = {}
    augmentation: Augmentation | None = None


class Card(CardTable):
    """A whole comparison."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    data: Data
    model: Model
    training: Training
    methods: Annotated[tuple[Method, ...], Field(min_length=1)]
    tuning: Tuning
    final: Final
    sparsity: Sparsity = Sparsity()
    removal: Removal = Removal()
    treatments: Annotated[tuple[Treatment, ...], Field(min_length=1)] = (Treatment(name="plain"),)
    threads: Count = 1  # of torch in each worker: part of the card, because it decides the last bits
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a CUDA device where there is one
    quick: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        for kind, names in (
            ("methods", [method.label for method in self.methods]),
            ("treatments", [treatment.name for treatment in self.treatments]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two {kind} are called {twice[0]!r}: give one another name")
        labels = [method.label for method in self.methods]
        if self.final.baseline not in labels:
            raise ValueError(f"final.baseline is {self.final.baseline!r}: must be one of {', '.join(labels)}")
        if common := set(self.tuning.seeds) & set(self.final.seeds):
            raise ValueError(f"seed {min(common)} is in tuning.seeds and in final.seeds: final seeds must be fresh")
        if self.tuning.total_decays is not None and self.data.per_class and self.data.classes is None:
            raise ValueError("data.classes is missing: total_decays need the number of training images")
        relative = [method for method in self.methods if method.dispersions is None]
        counts = {method.label: len(self.strengths(method)) for method in relative}
        if len(different := {count for count in counts.values() if count}) > 1:
            raise ValueError(f"methods have {', '.join(map(str, sorted(different)))} strengths: each needs as many")
        return self

    def strengths(self, method: Method) -> tuple[float, ...]:
        """Return the strengths to try, rising, of absolute settings lambda; none has no strength."""
        if method.penalty == "none":
            return ()
        given = method.lambdas or method.strengths or self.tuning.strengths
        if given is None:
            given = tuple(float(f"{decay / self.sum_of_rates:.6g}") for decay in self.tuning.total_decays or ())
        return tuple(sorted(set(given)))

    @property
    def sum_of_rates(self) -> float:
        """Sum of the learning rates of a training; total decay is strength times this."""
        examples = self.data.train * (self.data.classes or 1 if self.data.per_class else 1)
        return self.training.sum_of_rates(examples)

    def method(self, label: str) -> Method:
        """Return the method of that label."""
        return next(method for method in self.methods if method.label == label)

    def treatment(self, name: str) -> Treatment:
        """Return the treatment of that name."""
        return next(treatment for treatment in self.treatments if treatment.name == name)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any value but the title and the final seeds."""
        # Defaults are left out: a key that is added later, with a default, changes no old digest.
        stated = self.model_dump(mode="json", exclude=EXCLUDED, exclude_defaults=True)
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]

    def quick_version(self) -> Card:
        """Return the card cut down to prove that it runs: two epochs, strengths and final seeds, a slice of the data."""
        plain = self.model_dump(mode="json")
        plain["quick"] = True
        plain["training"] |= {"epochs": min(2, self.training.epochs), "warmup": 0.0}
        for key, most in QUICK_SIZES.items():
            whole = plain["data"][key]
            if whole is None and ":" in self.data.name:  # the user's test set, as small as it may be
                continue
            if self.data.per_class and key != "test":
                plain["data"][key] = min(2, whole)
            else:
                plain["data"][key] = min(most, whole or most)
        for key in ("strengths", "total_decays", "rates"):
            plain["tuning"][key] = plain["tuning"][key] and plain["tuning"][key][:2]
        plain["tuning"] |= {"seeds": plain["tuning"]["seeds"][:1], "widen": 0}
        for method in plain["methods"]:
            for key in ("strengths", "dispersions", "lambdas"):
                method[key] = method[key] and method[key][:2]
        plain["final"]["seeds"] = plain["final"]["seeds"][:2]
        plain["removal"]["fine_tuning_epochs"] = 1
        return Card.model_validate_json(json.dumps(plain))

    def differences(self, other: Card) -> list[str]:
        """Return the keys whose values differ, each with both values, title and final seeds aside."""
        mine, theirs = (dict(_flat(card.model_dump(mode="json", exclude=EXCLUDED))) for card in (self, other))
        keys = [*mine, *(key for key in theirs if key not in mine)]
        different = [key for key in keys if json.dumps(mine.get(key)) != json.dumps(theirs.get(key))]  # 1 is not true
        return [f"{key}: {mine.get(key)} and {theirs.get(key)}" for key in different]


def _rising_from(first: float, values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or values[0] != first or any(low >= high for low, high in pairwise(values)):
        raise ValueError(f"must begin with {first:g} and rise")
    return values


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        items = enumerate(value, start=1)
    else:
        yield place, value
        return
    for key, each in items:
        yield from _flat(each, f"{place}.{key}" if place else str(key))


def shipped() -> dict[str, str]:
    """Return the text of every card that ships, by name."""
    folder = resources.files("softdiamond.experiments") / "cards"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def text(name: str) -> str:
    """Return the text of a card: one that ships, or the file of that path.

    Raises
    ------
    UserError
        If there is no such card, or the file cannot be read.
    """
    cards = shipped()
    if name in cards:
        return cards[name]
    path = Path(name)
    try:
        if path.suffix == ".toml" or path.is_file():
            return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text, or no path"
        raise UserError(f"cannot read the card {name!r} ({reason})") from error
    near = difflib.get_close_matches(name.lower(), cards, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"no card {name!r}: there are {', '.join(cards)}, and your own as a path that ends in .toml{hint}")


def parse(content: str, origin: str) -> Card:
    """Return the card of a TOML text; ``origin`` names it in errors.

    Raises
    ------
    UserError
        If it is no TOML, has an unknown key, a wrong type or an impossible value.
    """
    try:
        plain = tomllib.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is not valid TOML: {error}") from error
    return validated(plain, origin)


def validated(plain: Any, origin: str) -> Card:
    """Return the card of plain values, as `parse` does of a text."""
    try:
        content = json.dumps(plain, default=str)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is no card: {error}") from error
    try:
        return Card.model_validate_json(content)
    except ValidationError as error:
        errors = error.errors()
        unknown = [each for each in errors if each["type"] == "extra_forbidden"]  # a misspelt key is missing as well
        raise UserError(" ".join(f"{origin}: {_say((unknown or errors)[0])}".split())) from error


def find(name: str) -> Card:
    """Return the card of that name or path; see `text` and `parse`."""
    return parse(text(name), name)


def _say(error: Any) -> str:
    """Name the key, the place, the value and what is allowed."""
    location = [part + 1 if isinstance(part, int) else part for part in error["loc"]]
    place = ".".join(map(str, location))
    known = _keys(error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{place} is no key of a card: there are {', '.join(known)}{hint}"
    if error["type"] == "missing":
        return f"{place} is missing"
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = error["input"]
    if isinstance(given, dict | list):  # a rule about several keys
        return f"{place}: {reason}" if place else reason
    shown = str(given).lower() if isinstance(given, bool) else repr(given)
    return f"{place} is {shown}: {reason}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the table in which the last part of a location lies."""
    table: type[CardTable] = Card
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        kinds = [table.model_fields[part].annotation] if part in table.model_fields else []
        while kinds:
            kind = kinds.pop()
            if isinstance(kind, type) and issubclass(kind, CardTable):
                table = kind
                break
            kinds += get_args(kind)
    return list(table.model_fields)
