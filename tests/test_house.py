"""The house: what an import loads, what the public names are, what the README promises."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import softdiamond
from softdiamond.cli import main

ROOT = Path(__file__).parents[1]

# Put before a program, makes `import NAME...` fail as if the package were not installed.
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def run(program: str, *, without: tuple[str, ...] = ()) -> str:
    """Output of a program in a fresh interpreter where warnings are errors and the packages ``without`` are missing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK.format(names=set(without)) + program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(statement: str) -> set[str]:
    """Top-level packages in ``sys.modules`` after a statement."""
    return set(run(f"{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})").split())


def test_public_names():
    assert softdiamond.__all__ == sorted(softdiamond.__all__)
    assert dir(softdiamond) == sorted(softdiamond.__all__)
    for name in softdiamond.__all__:
        assert getattr(softdiamond, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'gamma'"):
        softdiamond.gamma  # noqa: B018


def test_version_has_one_source():
    from importlib.metadata import version

    assert version("softdiamond") == softdiamond.__version__


def test_package_import_loads_nothing_heavy():
    assert loaded("import softdiamond").isdisjoint({"torch", "matplotlib", "scipy", "numpy"})


@pytest.mark.parametrize(
    "module", ["stable", "table", "table.array_reader", "penalties.prox", "plotting", "figures", "sklearn"]
)
def test_import_loads_no_torch(module):
    assert "torch" not in loaded(f"import softdiamond.{module}")


def test_jax_loads_no_torch():
    pytest.importorskip("optax")
    names = loaded(
        "import softdiamond.jax as sj\nsj.soft_diamond(1.0)\nsj.implicit_soft_diamond(0.1, 1.0).init(sj.jnp.ones(3))"
    )
    assert "optax" in names and "torch" not in names


def test_keras_on_jax_loads_no_torch():
    """On its torch backend it is Keras that imports it."""
    pytest.importorskip("jax")
    pytest.importorskip("keras")
    names = loaded(
        "import os\nos.environ['KERAS_BACKEND'] = 'jax'\nimport softdiamond.keras as sk\nsk.SoftDiamond()(sk.ops.ones((3, 2)))"
    )
    assert "keras" in names and "torch" not in names


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("softdiamond.jax", "optax", "jax"),
        ("softdiamond.keras", "keras", "keras"),
        ("softdiamond.trainers._lightning", "lightning", "trainers"),
        ("softdiamond.trainers._transformers", "transformers", "trainers"),
        ("softdiamond.trainers._accelerate", "accelerate", "trainers"),
    ],
)
def test_a_missing_or_old_framework_is_named_with_its_extra(module, package, extra):
    program = f"""
from importlib import metadata
known = metadata.version
metadata.version = lambda name: "0.0.1" if name == {package!r} else known(name)
try:
    import {module}
except ImportError as error:
    print(error)
"""
    pytest.importorskip(package)
    told = run(program)
    assert told.startswith(f"{package} ") and "0.0.1 is installed" in told and f"softdiamond[{extra}]" in told


def test_public_names_of_the_frameworks():
    pinned = {
        "jax": ["SoftDiamondState", "add_soft_diamond", "implicit_soft_diamond", "matrices", "omega", "soft_diamond"],
        "keras": ["ImplicitStep", "SoftDiamond", "regularize"],
        "trainers": ["LightningCallback", "TransformersCallback", "metrics", "with_accelerate"],
    }
    for name, public in pinned.items():
        pytest.importorskip("optax" if name == "jax" else "lightning" if name == "trainers" else name)
        assert import_module(f"softdiamond.{name}").__all__ == public


@pytest.mark.parametrize("module", ["stable", "table", "distributions", "experiments", "cli"])
def test_import_loads_no_matplotlib(module):
    assert "matplotlib" not in loaded(f"import softdiamond.{module}")


def test_command_starts_without_torch():
    assert "torch" not in loaded("import softdiamond.cli")


@pytest.mark.parametrize("name", ["Regularizer", "SoftDiamond", "SymmetricStable", "snap", "pruning", "compression"])
def test_what_needs_torch_says_what_to_install(name):
    program = f"""
import softdiamond as sd
try:
    sd.{name}
except ImportError as error:
    print(error)
"""
    assert run(program, without=("torch",)) == f'softdiamond.{name} needs torch: pip install "softdiamond[torch]"'


def test_law_works_without_torch():
    program = """
import softdiamond as sd
x = [0.0, 0.5, 3.0, 1e6]
print(sd.stable.logpdf(x, 0.5, scale=0.01).shape, sd.stable.omega(0.0, 0.5) > 0, sd.stable.cdf(0.0, 1.5))
print(sd.stable.group_omega(x, 0.5, 9).shape, sd.table.lookup_table(0.5, 9).d)
"""
    assert run(program, without=("torch", "matplotlib")).splitlines() == ["(4,) True 0.5", "(4,) 9"]


def test_public_names_of_the_law():
    groups = ["group_curvature", "group_omega", "group_penalty", "group_score"]
    scalars = ["cdf", "curvature", "dlogpdf_dalpha", "isf", "logpdf", "omega", "pdf", "ppf", "score", "sf"]
    others = ["ALPHA_MAX", "ALPHA_MIN", "D_MAX", "Fit", "fit", "parameters", "rvs"]
    assert sorted(softdiamond.stable.__all__) == sorted(groups + scalars + others)
    assert softdiamond.table.__all__ == ["Grid", "Table", "lookup_table"]


def test_public_names_of_feature_selection():
    module = pytest.importorskip("softdiamond.feature_selection")
    assert module.__all__ == ["SoftDiamondNetClassifier", "SoftDiamondNetRegressor"]


def test_table_works_without_torch(tmp_path):
    program = f"""
import numpy as np
from softdiamond.table import Table, lookup_table
lookup_table(0.77).save({str(tmp_path / "table.npz")!r})
print(Table.load({str(tmp_path / "table.npz")!r}).omega(np.array([0.0, 1.0], np.float32)).dtype)
"""
    assert run(program, without=("torch", "matplotlib")) == "float32"


def test_linear_estimators_work_without_torch():
    program = """
import numpy as np
from softdiamond.sklearn import SoftDiamondRegressor
X = np.eye(5)
print(SoftDiamondRegressor(fit_intercept=False, standardize=False).fit(X, X[0]).coef_.argmax())
"""
    assert run(program, without=("torch", "matplotlib")) == "0"


@pytest.mark.parametrize(
    ("module", "package"),
    [("sklearn", "scikit-learn"), ("sklearn", "numba"), ("feature_selection", "scikit-learn")],
)
@pytest.mark.parametrize("version", [None, "0.60.1"])
def test_estimators_name_their_extra_where_a_package_is_missing_or_old(module, package, version):
    program = f"""
from importlib import metadata
found = metadata.version
def version(name):
    if name != {package!r}:
        return found(name)
    if not {version!r}:
        raise metadata.PackageNotFoundError(name)
    return {version!r}
metadata.version = version
try:
    import softdiamond.{module}
except ImportError as error:
    print(error)
"""
    said = run(program)
    assert said.startswith(package) and 'pip install --upgrade "softdiamond[sklearn]"' in said
    assert ("is not installed" if version is None else "0.60.1 is installed") in said


def test_public_names_of_the_linear_estimators():
    from softdiamond import sklearn

    estimators = [f"SoftDiamond{kind}{cv}" for kind in ("Classifier", "Regressor") for cv in ("", "CV")]
    assert sklearn.__all__ == ["Path", *estimators, "soft_diamond_path"]


def test_accuracy_story_is_told():
    """With its table, and the command that measures it."""
    story = softdiamond.stable.__doc__
    assert "contour integral" in story and "benchmarks/error_map.py" in story


def test_block_blocks():
    """The tests above can fail: a blocked package is really out of reach."""
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        run("import torch", without=("torch",))


def test_py_typed_is_there():
    assert (Path(softdiamond.__file__).parent / "py.typed").is_file()


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "start").glob("*.md"))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the trainers
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_run(page):
    """Those of a page in one namespace, as a reader runs them; a framework that is missing is named and skips the rest."""
    snippets = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert snippets or page.parent.name != "start"
    namespace: dict[str, object] = {"__name__": page.stem}
    for snippet in snippets:
        try:
            exec(compile(snippet, page.name, "exec"), namespace)
        except ImportError as error:
            pytest.skip(str(error))


def test_new_penalty_of_contributing_works():
    """The class as printed gets a proximal map and a step from its two formulas."""
    import torch

    from softdiamond.penalties.prox import prox

    (snippet,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    opening = "from dataclasses import dataclass\nimport torch\nfrom torch import Tensor\nfrom softdiamond.penalties import Penalty\n"
    namespace: dict = {"__name__": "contributed"}
    exec(compile(opening + snippet, "CONTRIBUTING.md", "exec"), namespace)
    penalty = namespace["Welsch"]()
    w = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(penalty.value(w).sum(), w)
    torch.testing.assert_close(penalty.grad(w), slope)
    torch.testing.assert_close(penalty.prox(w, 5.0), torch.from_numpy(prox(w.detach().numpy(), 5.0, penalty)))
    softdiamond.Regularizer([("w", torch.nn.Parameter(torch.ones(2, 2)))], penalty, 1.0).step(0.1)


def test_readme_commands_exist():
    """Each `make` target and each subcommand that README and CONTRIBUTING name is there."""
    text = "".join((ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"\bmake ([a-z]+)\b", text))
    assert targets >= {"demo", "test", "lint"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in set(re.findall(r"\bsoftdiamond (laws|audit|prune|compare [a-z0-9-]+)", text)):
        assert main([*command.split(), "--help"]) == 0, command


def test_lint_covers_everything():
    lint = (ROOT / "Makefile").read_text("utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    for tool in ("ruff check .", "ruff format --check .", "mypy", "lint-imports"):
        assert tool in lint, tool


def test_relative_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *PAGES]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
