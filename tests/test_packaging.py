"""The package: what an import loads, the public names, who may read private ones, what the README promises."""

import ast
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
    "module",
    [
        "stable",
        "table",
        "table.array_reader",
        "penalties.prox",
        "plotting",
        "experiments.figures",
        "experiments.page",
        "sklearn",
    ],
)
def test_import_loads_no_torch(module):
    assert "torch" not in loaded(f"import softdiamond.{module}")


def test_jax_loads_no_torch():
    pytest.importorskip("optax")
    names = loaded(
        "import softdiamond.jax as sj\nsj.soft_diamond(1.0)\nsj.implicit_soft_diamond(0.1, strength=1.0).init(sj.jnp.ones(3))"
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


@pytest.mark.parametrize(
    "name", ["Regularizer", "SoftDiamond", "SymmetricStable", "gap_threshold", "pruning", "compression"]
)
def test_what_needs_torch_says_what_to_install(name):
    program = f"""
import softdiamond as sd
try:
    sd.{name}
except ImportError as error:
    print(error)
"""
    assert run(program, without=("torch",)) == f'softdiamond.{name} needs torch: pip install "softdiamond[torch]"'


@pytest.mark.parametrize("package", ["typer", "torch", "pydantic"])
def test_the_command_says_what_to_install(package):
    program = """
import sys
from softdiamond.cli import main
sys.stderr = sys.stdout
print(main(["compare", "digits"]))
"""
    expected = f'softdiamond: the command needs {package}: pip install "softdiamond[cli]"'
    assert run(program, without=(package,)).splitlines() == [expected, "2"]


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


# --- who reads what --------------------------------------------------------------------------------------------------------

SOURCE = {
    ".".join(("softdiamond", *path.relative_to(ROOT / "src/softdiamond").with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted((ROOT / "src/softdiamond").rglob("*.py"))
}
TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # public names of collections.namedtuple; os._exit is public too


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def unit(module: str) -> str:
    """The package or module directly below softdiamond, or the foreign package: what private names belong to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "softdiamond" else parts[0]


def private_imports(module: str, tree: ast.AST) -> set[str]:
    """Private names of other packages that a module imports."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    found = set()
    for name in names:
        # softdiamond._extras is private to softdiamond: what lies below softdiamond may read it.
        below = name.split(".")[2 if name.startswith("softdiamond.") else 1 :]
        if any(map(is_private, below)) and unit(name) != unit(module):
            found.add(name)
    return found


def defined_names(tree: ast.AST) -> set[str]:
    """Names that a module defines: functions, classes, variables, and attributes of its own objects."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and is_own(
            node.value
        ):  # defined here, or inherited from a class meant for that
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.rpartition(".")[2])
    return names


def is_own(value: ast.expr) -> bool:
    """Whether it is self, cls or super(): what such an object's private names are, the class and its bases decide."""
    if isinstance(value, ast.Call):
        value = value.func
    return isinstance(value, ast.Name) and value.id in ("self", "cls", "super")


def private_attributes(tree: ast.AST, own: set[str]) -> set[str]:
    """Private names that a module reads from other objects and that its package does not define."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            found |= {each.value for each in node.args[1:2] if isinstance(each, ast.Constant)}
    return {name for name in found if is_private(name) and name != "_exit"} - own - TUPLES


def foreign_private_names(sources: dict[str, str]) -> set[tuple[str, str]]:
    """Module and private name of another package, for each that is read."""
    trees = {module: ast.parse(source) for module, source in sources.items()}
    own: dict[str, set[str]] = {}
    for module, tree in trees.items():
        own.setdefault(unit(module), set()).update(defined_names(tree))
    return {
        (module, name)
        for module, tree in trees.items()
        if module != "softdiamond._compat"
        for name in private_imports(module, tree) | private_attributes(tree, own[unit(module)])
    }


def test_no_module_reads_a_private_name_of_another_package():
    """Those of foreign packages that are needed stand in `softdiamond._compat`."""
    assert foreign_private_names({module: path.read_text("utf-8") for module, path in SOURCE.items()}) == set()


def test_private_names_of_other_packages_are_found():
    """The test above can fail."""
    sources = {
        "softdiamond.a": "class A:\n    def __init__(self):\n        self._own = self._base = 1\n",
        "softdiamond.a._b": "from softdiamond.a import A\nfrom softdiamond._extras import require\nA()._own\n",
        "softdiamond.c": "from softdiamond.a._b import A\nA()._own\ngetattr(A(), '_base')\nA()._asdict()\n",
        "softdiamond.d": "from softdiamond.a import _b\nimport torch._C\nfrom torch import _C as c\nsuper()._x\n",
        "softdiamond._compat": "import torch._C\n",
    }
    assert foreign_private_names(sources) == {
        ("softdiamond.c", "softdiamond.a._b.A"),
        ("softdiamond.c", "_own"),
        ("softdiamond.c", "_base"),
        ("softdiamond.d", "softdiamond.a._b"),
        ("softdiamond.d", "torch._C"),
    }


# State of the whole process: a library that changes it changes it for other threads too. Where it is still done; the entry of a
# place that is gone has to go.
PROCESS_WIDE = {
    *(("softdiamond.compression." + module, "warnings." + name)
      for module in ("_checkpoint", "_export", "_shrink") for name in ("catch_warnings", "simplefilter")),
    *(("softdiamond.compression._sparse_linear", "warnings." + name) for name in ("catch_warnings", "filterwarnings")),
    ("softdiamond.experiments.entry_points", "sys.path.insert"),
    ("softdiamond.experiments.ray_engine", "os.environ.setdefault"),
    ("softdiamond.experiments.summary", "warnings.catch_warnings"),
    ("softdiamond.experiments.summary", "warnings.simplefilter"),
}  # fmt: skip


def process_wide_changes(tree: ast.AST) -> set[str]:
    """Calls and assignments that change warning filters, the import path, the environment or the working directory."""
    changing = {
        *("warnings.catch_warnings", "warnings.simplefilter", "warnings.filterwarnings", "os.chdir", "os.putenv"),
        *("sys.path.insert", "sys.path.append", "os.environ.setdefault", "os.environ.update", "os.environ.pop"),
        *("np.random.seed", "np.seterr", "random.seed", "torch.set_default_dtype", "matplotlib.use"),
    }
    found = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)} & changing
    targets = [
        node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load)
    ]
    return found | {name for node in targets if (name := ast.unparse(node.value)) in ("os.environ", "sys.modules")}


def test_what_changes_the_whole_process_is_known():
    found = {
        (module, name)
        for module, path in SOURCE.items()
        for name in process_wide_changes(ast.parse(path.read_text("utf-8")))
    }
    assert found == PROCESS_WIDE


def test_process_wide_changes_are_found():
    source = "import os, warnings\nos.environ['A'] = 'b'\nwith warnings.catch_warnings():\n    del os.environ['A']\nos.environ['A']\n"
    assert process_wide_changes(ast.parse(source)) == {"os.environ", "warnings.catch_warnings"}


SCRIPTS = [
    path for folder in ("studies", "benchmarks", "examples", "docs/gallery") for path in (ROOT / folder).glob("*.py")
]


@pytest.mark.parametrize("path", sorted(SCRIPTS), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_scripts_import_names_that_exist(path):
    """From this package, without running the script."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "softdiamond":
            try:
                module = import_module(node.module)
            except ImportError as error:
                if f"softdiamond.{node.module.split('.')[-1]}" in str(error):
                    raise
                pytest.skip(str(error))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    import_module(f"{node.module}.{alias.name}")


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
    for command in set(re.findall(r"\bsoftdiamond (laws|audit|prune|report|claims|compare [a-z0-9-]+)", text)):
        assert main([*command.split(), "--help"]) == 0, command


def test_lint_covers_everything():
    lint = (ROOT / "Makefile").read_text("utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    for tool in ("ruff check .", "ruff format --check .", "mypy", "lint-imports"):
        assert tool in lint, tool


def test_relative_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *PAGES]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
