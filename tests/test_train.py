"""The one training loop: penalty, schedule, randomness, removal; and going on from a checkpoint."""

import io
import math
import shutil
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from softdiamond.experiments import card, checkpoint, data, models, train
from softdiamond.pruning import GradualPruning

TRAINING = card.Training(optimizer="SGD", rate=0.05, epochs=2, batch=32)
SOFT = card.Method(penalty="soft diamond", alpha=0.5)
L1, L2 = card.Method(penalty="L1"), card.Method(penalty="L2")
METHODS = [
    L2,
    L1,
    *(
        card.Method(penalty="soft diamond", alpha=alpha, relative_scale=scale)
        for alpha in (0.5, 1.0, 1.5, 2.0)
        for scale in (0.3, 1.0)
    ),
]
MODES = ["implicit", "prox", "gradient", "loss"]

label = pytest.mark.parametrize("method", METHODS[:3], ids=lambda method: method.label)


@pytest.fixture(scope="module")
def digits():
    return data.load(card.Data(name="digits", train=120, validation=80), None)


def changed(**changes):
    return TRAINING.model_copy(update=changes)


def network(seed=3, **options):
    return models.build("mlp", {"hidden": [8], **options}, (1, 8, 8), 10, seed)


def fitted(digits, method=None, strength=0.01, seed=3, *, training=TRAINING, mode=None, share=None, options=(), **more):
    """Train a small net; return it and the losses."""
    net = network(seed, **dict(options))
    reg = None if method is None else train.regularizer(net, method, strength)
    mode = mode or (method.effective_mode if method else card.Method(penalty="none").effective_mode)
    gradual = None
    if share is not None:
        steps = training.epochs * math.ceil(len(digits.train.labels) / training.batch)
        gradual = GradualPruning(models.regularized(net), share, steps, begin=0.2, end=0.8)
    return net, train.fit(net, digits.train, training, seed, reg=reg, mode=mode, gradual=gradual, **more)


def assert_equal_bits(net, other):
    ours, theirs = net.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def flat(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


# --- the penalty --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_equal_strength_is_equal_decay_at_the_initial_rms(method):
    net = models.build("mlp", {"hidden": [40]}, (30,), 10, 0).double()
    train.regularizer(net, method, 0.01).penalty_value().backward()
    start = models.rms(net)
    assert start.keys() == {"1.weight", "3.weight"}
    for name, parameter in net.named_parameters():
        if name not in start:
            assert parameter.grad is None, "no penalty on biases"
            continue
        w = parameter.detach().flatten()
        near = (w.abs() / start[name] - 1).abs().argmin()
        assert float(parameter.grad.flatten()[near] / w[near]) == pytest.approx(0.01, rel=0.02), name


def test_reference_model_takes_one_rms_for_all():
    net = models.build("mlp", {"hidden": [40]}, (30,), 10, 0)
    several, one = (
        train.regularizer(net, SOFT.model_copy(update={"reference": kind}), 0.01) for kind in ("tensor", "model")
    )
    references = [{r["reference"] for r in reg.describe().records if r["regularized"]} for reg in (several, one)]
    assert len(references[0]) == 2 and len(references[1]) == 1


def test_none_has_no_regularizer():
    with pytest.raises(ValueError, match="none has no regularizer"):
        train.regularizer(network(), card.Method(penalty="none"), 0.0)


@pytest.mark.parametrize(
    ("penalty", "mode", "acts"),
    [
        *(("L1", mode, "prox" if mode == "implicit" else mode) for mode in MODES),
        *(("L2", mode, mode) for mode in MODES),
        *(("soft diamond", mode, mode) for mode in MODES),
    ],
)
def test_only_l1_has_another_default_mode(penalty, mode, acts):
    alpha = 0.5 if penalty == "soft diamond" else None
    assert card.Method(penalty=penalty, alpha=alpha, mode=mode).effective_mode == acts


def test_none_acts_in_no_way():
    assert card.Method(penalty="none").effective_mode == ""


@pytest.mark.parametrize("mode", MODES)
def test_modes_train_alike(digits, mode):
    """All four ways reach nearly the same network at a small strength, and not the one without a penalty."""
    method = card.Method(penalty="soft diamond", alpha=1.0, relative_scale=1.0)
    plain = changed(momentum=0.0)  # with momentum, eight steps are too few for the modes to agree

    def weights(strength, mode):
        return flat(fitted(digits, method, strength, mode=mode, training=plain)[0])

    trained = weights(0.01, mode)
    effect, difference = (trained - weights(0.0, mode)).norm(), (trained - weights(0.01, "implicit")).norm()
    assert effect > 0 and difference < 0.2 * effect, (float(effect), float(difference))


def test_lasso_gives_exact_zeros_and_no_other_penalty_does(digits):
    for method, sparse in ((L1, True), (L2, False), (SOFT, False)):
        net, _ = fitted(digits, method, 0.1)
        zero = float((net[1].weight == 0).float().mean())
        assert (zero > 0.05) is sparse and (sparse or zero == 0.0), method.label


@label
def test_methods_are_paired(digits, method):
    """At strength 0 every penalty gives the run of none: same initial weights, same batches."""
    for mode in MODES:
        bare, losses = fitted(digits)
        net, same = fitted(digits, method, 0.0, mode=mode)
        assert same == losses, mode
        assert_equal_bits(net, bare)


def test_seed_decides_weights_and_batches(digits):
    bare, losses = fitted(digits)
    assert fitted(digits, seed=4)[1] != losses
    net = network(3)  # the same start, other batches
    assert train.fit(net, digits.train, TRAINING, 4) != losses and not torch.equal(flat(net), flat(bare))


# --- the loop -----------------------------------------------------------------------------------------------------------


def twin(digits, optimizer_of, after_step=lambda net, rate: None, *, rates):
    """Ten plain lines; ``rates`` has the learning rate of every step."""
    net = network(5)
    generator = torch.Generator().manual_seed(5)
    optimizer = optimizer_of(net)
    rates = iter(rates)
    for _ in range(2):
        for batch in torch.randperm(120, generator=generator).split(32):
            rate = next(rates)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(digits.train.inputs[batch]), digits.train.labels[batch]).backward()
            optimizer.step()
            after_step(net, rate)
    assert not list(rates)
    return net


COSINE = [0.05 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]


def test_loop_equals_its_naive_twin(digits):
    """PyTorch's own coupled weight decay on the matrices gives the same network as L2 in the loss."""

    def optimizer(net):
        groups = [{"params": [p for p in net.parameters() if (p.dim() > 1) is matrix]} for matrix in (True, False)]
        return torch.optim.SGD([groups[0] | {"weight_decay": 0.01}, groups[1]], lr=1.0, momentum=0.9)

    net, _ = fitted(digits, L2, 0.01, seed=5, mode="loss")
    torch.testing.assert_close(flat(net), flat(twin(digits, optimizer, rates=COSINE)), rtol=1e-4, atol=1e-6)


def test_loop_with_adamw_and_warmup_equals_its_naive_twin(digits):
    @torch.no_grad()
    def shrink(net, rate):
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter /= 1 + 0.5 * rate

    def optimizer(net):
        return torch.optim.AdamW(net.parameters(), lr=1.0, weight_decay=0.0)

    rates = [0.01 * min(1.0, (step + 1) / 6) for step in range(8)]
    training = changed(optimizer="AdamW", rate=0.01, warmup=1.5, schedule="constant")
    net, _ = fitted(digits, L2, 0.5, seed=5, training=training)
    torch.testing.assert_close(flat(net), flat(twin(digits, optimizer, shrink, rates=rates)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0, 5.0])
def test_schedule_in_closed_form(digits, schedule, warmup):
    seen = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    try:
        fitted(digits, training=changed(epochs=3, schedule=schedule, warmup=warmup))
    finally:
        handle.remove()
    rising = [min(1.0, (step + 1) / (warmup * 4)) if warmup else 1.0 for step in range(12)]
    falling = [math.cos(math.pi * step / 24) ** 2 if schedule == "cosine" else 1.0 for step in range(12)]
    assert seen == pytest.approx([0.05 * a * b for a, b in zip(rising, falling, strict=True)], rel=1e-12)


def test_losses_are_means_over_examples_without_the_penalty(digits):
    whole = changed(epochs=1, batch=120)
    still = changed(epochs=1, rate=1e-30)  # batches of 32, 32, 32 and 24
    net = network()
    expected = float(nn.functional.cross_entropy(net(digits.train.inputs), digits.train.labels).detach())
    for method in (None, L2, SOFT):
        assert fitted(digits, method, 1.0, mode="loss", training=whole)[1] == pytest.approx([expected], rel=1e-5)
        assert fitted(digits, method, 1.0, mode="loss", training=still)[1] == pytest.approx([expected], rel=1e-5)
    losses = fitted(digits, training=changed(epochs=8))[1]
    assert len(losses) == 8 and losses[-1] < 0.95 * losses[0], "it learns"


def test_on_epoch_hears_of_every_epoch(digits):
    heard = []
    _, losses = fitted(digits, training=changed(epochs=3), on_epoch=lambda *told: heard.append(told))
    assert heard == list(enumerate(losses, start=1))


@pytest.mark.parametrize(
    ("method", "training"),
    [(L2, changed(epochs=5)), (None, changed(epochs=5, rate=1e300, batch=120))],  # the loss of the first step is finite
    ids=["loss", "weights"],
)
def test_what_is_not_finite_ends_training(digits, method, training):
    heard = []
    _, losses = fitted(digits, method, 1e30, mode="loss", training=training, on_epoch=lambda *told: heard.append(told))
    assert len(losses) == len(heard) == 1 and math.isnan(losses[0])


def test_a_caller_may_measure_between_epochs(digits):
    """Evaluation mode, set by whoever looks at the net after an epoch, does not last into the next."""
    options = {"dropout": 0.5, "batch_norm": True}
    net = network(**options)
    losses = train.fit(net, digits.train, TRAINING, 3, on_epoch=lambda *_: net.eval())
    assert losses == fitted(digits, options=options)[1]


def test_regularizer_and_optimizer_are_parted_at_the_end(digits):
    net = network()
    reg = train.regularizer(net, SOFT, 0.01)
    train.fit(net, digits.train, TRAINING, 3, reg=reg)
    reg.attach(torch.optim.SGD(net.parameters(), lr=0.1))  # raises where it is attached still


# --- randomness ---------------------------------------------------------------------------------------------------------

AUGMENTED = changed(augmentation="crop and flip")
RANDOM = {
    "plain": {},
    "augmentation": {"training": AUGMENTED},
    "dropout": {"options": {"dropout": 0.3}},
    "batch norm": {"options": {"batch_norm": True}},
    "gradual": {"share": 0.7},
    "AdamW": {"training": changed(optimizer="AdamW", rate=0.01)},
    "all": {"training": AUGMENTED, "options": {"dropout": 0.3, "batch_norm": True}, "share": 0.7},
}


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("method", [None, *METHODS[:3]], ids=lambda method: method.label if method else "none")
def test_training_repeats_bit_by_bit_and_leaves_global_randomness_alone(digits, method, kind):
    before = torch.get_rng_state()
    first, losses = fitted(digits, method, **RANDOM[kind])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)  # what others drew does not matter
    second, again = fitted(digits, method, **RANDOM[kind])
    assert losses == again and len(losses) == 2
    assert_equal_bits(first, second)
    if kind not in ("plain", "gradual"):
        assert losses != fitted(digits, method)[1], "and it is not the plain run"


def test_augmentation_and_dropout_do_not_change_the_order_of_batches(digits):
    """Batch order is drawn before anything else of its epoch, so that treatments share the first epoch's batches."""
    seen = {}
    for kind in ("plain", "augmentation", "dropout"):
        labels = seen[kind] = []
        original = nn.functional.cross_entropy
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                nn.functional,
                "cross_entropy",
                lambda x, y, labels=labels, original=original: labels.append(y) or original(x, y),
            )
            fitted(digits, **RANDOM[kind])
    for kind in ("augmentation", "dropout"):
        assert all(torch.equal(a, b) for a, b in zip(seen["plain"][:4], seen[kind][:4], strict=True)), kind


def test_gradual_removal_reaches_its_share_and_fixed_masks_hold(digits):
    net, _ = fitted(digits, SOFT, share=0.9)
    weights = torch.cat([w.detach().flatten() for w in models.regularized(net).values()])
    assert int((weights == 0).sum()) == round(0.9 * len(weights))


# --- checkpoints --------------------------------------------------------------------------------------------------------

EPOCHS = 4
LONG = changed(epochs=EPOCHS)
RESUMED = {
    "none": (None, {}),
    "implicit": (SOFT, {"mode": "implicit"}),
    "prox": (L1, {"mode": "prox"}),
    "gradient": (SOFT, {"mode": "gradient"}),
    "loss": (SOFT, {"mode": "loss"}),
    "gradual": (SOFT, {"share": 0.8}),
    "dropout": (SOFT, {"options": {"dropout": 0.3}}),
    "augmentation": (SOFT, {"training": changed(epochs=EPOCHS, augmentation="crop and flip")}),
    "batch norm": (SOFT, {"options": {"batch_norm": True}}),
    "AdamW": (SOFT, {"training": changed(epochs=EPOCHS, optimizer="AdamW", rate=0.01, warmup=2.5)}),
    "all": (
        L1,
        {
            "training": changed(epochs=EPOCHS, optimizer="AdamW", rate=0.01, augmentation="crop and flip"),
            "options": {"dropout": 0.3, "batch_norm": True},
            "share": 0.8,
        },
    ),
}


class Stopped(Exception):
    pass


def attempt(digits, stem, kind="all", *, stop=None, seconds=0.0):
    """Train with checkpoints, and stop after an epoch; return net, losses (None where stopped) and epochs heard of."""
    method, settings = RESUMED[kind]
    heard = []

    def on_epoch(epoch, loss):
        heard.append(epoch)
        if epoch == stop:
            raise Stopped

    kept = checkpoint.Checkpoint(stem, seconds)
    try:
        done = fitted(digits, method, checkpoint=kept, on_epoch=on_epoch, **{"training": LONG, **settings})
    except Stopped:
        done = None, None
    return *done, heard


def names(stem):
    return sorted(path.name for path in stem.parent.iterdir()) if stem.parent.is_dir() else []


@pytest.mark.parametrize("stop", range(1, EPOCHS + 1))
@pytest.mark.parametrize("kind", RESUMED)
def test_interrupted_and_resumed_is_as_undisturbed(tmp_path, digits, kind, stop):
    method, settings = RESUMED[kind]
    whole, losses = fitted(digits, method, **{"training": LONG, **settings})
    stem = tmp_path / "checkpoints" / "run"
    before = torch.get_rng_state()
    attempt(digits, stem, kind, stop=stop)  # the state after `stop` epochs is not saved yet
    assert names(stem) == ([f"run.{stop - 1:05d}.pt", f"run.{stop - 1:05d}.safetensors"] if stop > 1 else [])
    net, resumed, heard = attempt(digits, stem, kind)
    assert heard == list(range(stop, EPOCHS + 1)), "it went on, and did not begin again"
    assert resumed == losses
    assert_equal_bits(net, whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_stopped_in_every_epoch_is_as_undisturbed(tmp_path, digits):
    method, settings = RESUMED["all"]
    whole, losses = fitted(digits, method, **settings)
    for stop in (1, 2, 2, 3, 3, 4):
        attempt(digits, tmp_path / "run", stop=stop)
    net, resumed, _ = attempt(digits, tmp_path / "run")
    assert resumed == losses
    assert_equal_bits(net, whole)


def cut(part):
    return lambda path: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


DAMAGE = {
    **{f"{end} cut to {part}": (end, cut(part)) for end in (".pt", ".safetensors") for part in (0.0, 0.01, 0.5, 0.999)},
    **{f"no {end}": (end, lambda path: path.unlink()) for end in (".pt", ".safetensors")},
    **{f"foreign {end}": (end, lambda path: path.write_bytes(b"my notes\n")) for end in (".pt", ".safetensors")},
}


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_checkpoint_falls_back(tmp_path, digits, damage, older):
    method, settings = RESUMED["all"]
    whole, losses = fitted(digits, method, **settings)
    stem = tmp_path / "checkpoints" / "run"
    attempt(digits, stem, stop=2)
    shutil.copytree(stem.parent, tmp_path / "older")
    attempt(digits, stem, stop=3)
    assert names(stem) == ["run.00002.pt", "run.00002.safetensors"]
    end, spoil = DAMAGE[damage]
    spoil(stem.with_name(f"run.00002{end}"))
    if older:
        shutil.copytree(tmp_path / "older", stem.parent, dirs_exist_ok=True)
    with (
        nullcontext()
        if damage == "no .pt"
        else pytest.warns(RuntimeWarning, match="run cannot be read .*goes on from an")
    ):
        net, resumed, heard = attempt(digits, stem, stop=None)
    assert heard == list(range(2 if older else 1, EPOCHS + 1))
    assert resumed == losses
    assert_equal_bits(net, whole)


def test_the_newest_whole_checkpoint_is_the_one_to_go_on_from(tmp_path, digits):
    stem = tmp_path / "checkpoints" / "run"
    attempt(digits, stem, stop=2)
    shutil.copytree(stem.parent, tmp_path / "older")
    attempt(digits, stem, stop=4)
    shutil.copytree(tmp_path / "older", stem.parent, dirs_exist_ok=True)
    assert attempt(digits, stem)[2] == [4]
    assert names(stem) == ["run.00001.pt", "run.00001.safetensors", "run.00003.pt", "run.00003.safetensors"]


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_checkpoint_cannot_run_code(tmp_path, digits):
    attempt(digits, tmp_path / "run", stop=3)
    torch.save({"losses": [1.0], "attack": Attack(str(tmp_path / "pwned"))}, tmp_path / "run.00002.pt")
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert attempt(digits, tmp_path / "run")[2] == [1, 2, 3, 4]
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_of_another_net_leaves_the_start_as_it_was(tmp_path):
    """Of a net whose first tensors have the same shapes: none of them is taken over."""
    torch.manual_seed(0)
    saved = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    checkpoint.Checkpoint(tmp_path / "run", 0.0).save(1, saved, {"losses": [1.0]})
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    start = flat(net)
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert checkpoint.Checkpoint(tmp_path / "run").load(net) is None
    assert torch.equal(flat(net), start)


def test_checkpoint_files_are_plain_data(tmp_path, digits):
    attempt(digits, tmp_path / "run", stop=3)
    state = torch.load(tmp_path / "run.00002.pt", weights_only=True)
    assert len(state["losses"]) == 2 and {"optimizer", "generator", "random", "reg", "gradual"} < state.keys()
    weights = load_file(tmp_path / "run.00002.safetensors")
    assert weights.keys() == network(dropout=0.3, batch_norm=True).state_dict().keys()


def test_checkpoint_is_deleted_with_all_that_was_left(tmp_path, digits):
    stem = tmp_path / "run"
    attempt(digits, stem, stop=3)
    (tmp_path / "run.00002.pt.new").write_bytes(b"half")  # of a process that was killed while it wrote
    (tmp_path / "run2.00002.pt").write_bytes(b"another run's")
    (tmp_path / "run.txt").write_bytes(b"notes")
    assert checkpoint.Checkpoint(stem).load(network(dropout=0.3, batch_norm=True)) is not None
    checkpoint.Checkpoint(stem).delete()
    assert names(stem) == ["run.txt", "run2.00002.pt"]
    checkpoint.Checkpoint(stem).delete()
    checkpoint.Checkpoint(tmp_path / "nowhere" / "run").delete()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_checkpoint_that_cannot_be_deleted_does_not_end_the_run(tmp_path, digits, monkeypatch, error):
    attempt(digits, tmp_path / "run", stop=3)
    left, tried = names(tmp_path / "run"), []

    def refuse(path, missing_ok=False):
        tried.append(path.name)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Path, "unlink", refuse)
        checkpoint.Checkpoint(tmp_path / "run").delete()
    assert tried and set(tried) <= set(left) and names(tmp_path / "run") == left
    checkpoint.Checkpoint(tmp_path / "run").delete()
    assert names(tmp_path / "run") == []


def test_no_checkpoint_before_it_is_due(tmp_path, digits, monkeypatch):
    attempt(digits, tmp_path / "run", seconds=1e9)
    assert not list(tmp_path.iterdir())
    now = 100.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    kept = checkpoint.Checkpoint(tmp_path / "run", 60.0)
    now = 159.0
    assert not kept.due()
    now = 160.0
    assert kept.due()
    kept.save(1, network(), {})
    assert not kept.due()


def test_unwritable_folder_does_not_end_the_run(tmp_path, digits):
    (tmp_path / "file").write_text("in the way")
    method, settings = RESUMED["all"]
    with pytest.warns(RuntimeWarning, match="cannot be written .*the run goes on without") as warned:
        net, losses, heard = attempt(digits, tmp_path / "file" / "run")
    assert len(warned) == 1, "said once, not after each epoch"
    whole, undisturbed = fitted(digits, method, **settings)
    assert losses == undisturbed and heard == list(range(1, EPOCHS + 1))
    assert_equal_bits(net, whole)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("[enforce fail] write failed")])
def test_full_disk_leaves_the_last_whole_checkpoint(tmp_path, digits, monkeypatch, error):
    stem = tmp_path / "run"
    attempt(digits, stem, stop=2)
    original = torch.save

    def full(state, path):
        buffer = io.BytesIO()
        original(state, buffer)
        path.write_bytes(buffer.getvalue()[:100])
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        _, losses, heard = attempt(digits, stem)
    method, settings = RESUMED["all"]
    assert heard == [2, 3, 4] and losses == fitted(digits, method, **settings)[1]
    assert names(stem) == ["run.00001.pt", "run.00001.safetensors"]


# --- precision, memory layout, compilation -------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"channels_last": True}, {"compile": True}], ids=str)
def test_other_arithmetic_trains_nearly_alike(change, monkeypatch):
    """Each is the same training but for rounding; float32 weights stay float32."""
    monkeypatch.setattr(
        torch, "compile", lambda net: lambda x: net(x) * 1.0
    )  # a compiler takes long, and is torch's own
    generator = torch.Generator().manual_seed(0)
    images = data.Examples(
        torch.randn(40, 3, 8, 8, generator=generator), torch.randint(0, 10, (40,), generator=generator)
    )
    plain = card.Training(optimizer="SGD", rate=0.05, epochs=2, batch=20)
    nets, losses = [], []
    for training in (plain, plain.model_copy(update=change)):
        net = models.build("small-conv", {"channels": [8, 8], "hidden": 16}, (3, 8, 8), 10, seed=0)
        reg = train.regularizer(net, card.Method(penalty="soft diamond", alpha=0.5), 0.1)
        losses.append(train.fit(net, images, training, 0, reg=reg))
        nets.append(net)
    one, other = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets)
    assert all(p.dtype == torch.float32 for p in nets[1].parameters())
    tolerance = 2e-2 if "precision" in change else 1e-5
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    assert float((one - other).norm() / one.norm()) < tolerance
    if "precision" in change:
        assert not torch.equal(one, other), "bf16 does something"
    if "channels_last" in change:
        assert nets[1][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_absolute_settings_are_lambda_and_dispersion():
    net = models.build("mlp", {"hidden": [12]}, (1, 8, 8), 10, seed=0)
    method = card.Method(penalty="soft diamond", alpha=0.5, dispersions=(0.1,), lambdas=(1e-5,))
    records = train.regularizer(net, method, 1e-5, 0.1).describe().records
    shown = [(record["lambda"], record["scale"]) for record in records if record["regularized"]]
    assert shown == [(pytest.approx(1e-5), pytest.approx(0.1**2))] * 2
