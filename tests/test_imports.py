"""Imports point downward only, and what must start fast imports no torch.

The layers are read from the source with `ast`, imports inside functions and under TYPE_CHECKING
included; a module that no layer names fails, so that the list stays complete.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
CONF = Path(__file__).parents[1] / "conf"

# From the ground up. An entry holds a module and everything under it; the longest entry wins.
# A module may import its own layer and the layers above it in this list.
LAYERS = {
    "ground": [
        "warmstart.digests",
        "warmstart.errors",
        "warmstart.fetch",
        "warmstart.folder_locks",
        "warmstart.locks",
        "warmstart.randomness",
        "warmstart.stopping",
        "warmstart.store",
        "warmstart.sums",
    ],
    "pure": [
        "warmstart.data.duplicates",
        "warmstart.data.preparation",
        "warmstart.data.samples",
        "warmstart.data.splits",
        "warmstart.data.subsets",
        "warmstart.models.layers",
        "warmstart.strategies.phases",
        "warmstart.optim.schedules",
        "warmstart.results",
        "warmstart.transferability",
    ],
    "parts": [
        "warmstart.data",
        "warmstart.features",
        "warmstart.metrics",
        "warmstart.models",
        "warmstart.optim",
        "warmstart.ranks",
        "warmstart.trainer",
    ],
    "training": ["warmstart.callbacks", "warmstart.task"],
    "methods": ["warmstart.predict", "warmstart.strategies"],
    "one run": [
        "warmstart.run",
        "warmstart.configs",
        "warmstart.environment",
        "warmstart.exporting",
        "warmstart.memory",
        "warmstart.operations",
        "warmstart.preview",
        "warmstart.ranking",
        "warmstart.screening",
        "warmstart.sight",
        "warmstart.targets",
        "warmstart.untrained",
    ],
    # "warmstart" is the package's __init__ alone, or no module could be unknown.
    "the door": [
        "hydra_plugins.warmstart_grid",
        "hydra_plugins.warmstart_launchers",
        "warmstart",
        "warmstart.__main__",
        "warmstart.api",
        "warmstart.app",
        "warmstart.arms",
        "warmstart.catalogue",
        "warmstart.check",
        "warmstart.cells",
        "warmstart.cli",
        "warmstart.commands",
        "warmstart.declaration",
        "warmstart.feature_files",
        "warmstart.features_command",
        "warmstart.launch",
        "warmstart.look",
        "warmstart.preview_table",
        "warmstart.progress",
        "warmstart.ranking_table",
        "warmstart.status_view",
        "warmstart.stock",
        "warmstart.summary",
        "warmstart.sweep",
        "warmstart.tuning",
    ],
}
RANKS = {entry: rank for rank, entries in enumerate(LAYERS.values()) for entry in entries}
TORCH = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning"}


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def rank(module: str) -> int | None:
    """Return the layer's place (0 is the ground), or None for a module that no layer names."""
    if module == "warmstart":
        return RANKS[module]
    while module not in ("", "warmstart", *RANKS):
        module = module.rpartition(".")[0]
    return None if module in ("", "warmstart") else RANKS[module]


def imports(module: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, full name) of every import in a file, at any level."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in MODULES else base


def violations(allowed: Callable[[str, str], bool]) -> list[str]:
    """Return "file:line imports name" for every import that `allowed(module, name)` refuses."""
    return [
        f"{path.relative_to(SOURCE)}:{line} imports {name}"
        for module, path in MODULES.items()
        for line, name in imports(module, path)
        if not allowed(module, name)
    ]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python on the checkout's source and return what it printed."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_source_is_found():
    assert {"warmstart", "warmstart.errors", "warmstart.results.record"} <= set(MODULES)


def test_every_module_has_a_layer():
    namespaces = PACKAGES - set(RANKS)  # the empty __init__ of a package that several layers share
    unknown = [name for name in MODULES if rank(name) is None and name not in namespaces]
    assert not unknown, f"name these modules in LAYERS: {unknown}"


def test_every_layer_entry_exists():
    gone = [name for name in RANKS if name not in MODULES]
    assert not gone, f"take these out of LAYERS: {gone}"


def test_imports_point_downward():
    def allowed(module: str, name: str) -> bool:
        own, other = rank(module), rank(name)
        return own is None or other is None or other <= own

    assert violations(allowed) == []


def test_packages_within_the_package_import_nothing():
    """Importing one module of a package must not bring in its neighbours of a higher layer."""
    inner = PACKAGES - {"warmstart"}
    assert violations(lambda module, name: module not in inner or name == "__future__") == []


def test_results_never_import_torch():
    def allowed(module: str, name: str) -> bool:
        return not module.startswith("warmstart.results") or name.split(".")[0] not in TORCH

    assert violations(allowed) == []


def test_only_a_run_and_the_door_see_the_configuration():
    def allowed(module: str, name: str) -> bool:
        own = rank(module)
        upper = own is None or own >= RANKS["warmstart.run"]
        return upper or name.split(".")[0] not in {"hydra", "omegaconf"}

    assert violations(allowed) == []


def test_every_library_is_a_declared_dependency():
    """What is imported must be asked for by us, not come along with something else."""
    with (SOURCE.parent / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    optional = (line for extra in ("datasets", "slurm", "timm") for line in extras[extra])
    asked = [*project["dependencies"], *optional]
    declared = {re.split(r"[<>=]", line)[0] for line in asked}
    homes = packages_distributions()

    def allowed(_: str, name: str) -> bool:
        top = name.split(".")[0]
        own = top in {"warmstart", "hydra_plugins"} or top in sys.stdlib_module_names
        return own or any(home.lower().replace("_", "-") in declared for home in homes.get(top, []))

    assert violations(allowed) == []


def test_lightning_has_one_name():
    assert violations(lambda _, name: name.split(".")[0] != "lightning") == []


def test_wandb_is_named_by_its_guard_and_conf_logger_alone():
    def names_wandb(path: Path) -> bool:
        return "wandb" in path.read_text(encoding="utf-8").lower()

    guards = [name for name, path in MODULES.items() if names_wandb(path)]
    assert len(guards) <= 1, f"more than one module names wandb: {guards}"
    configs = [path.relative_to(CONF) for path in CONF.rglob("*.yaml") if names_wandb(path)]
    assert all(path.parts[0] == "logger" for path in configs), configs


def test_no_submodule_has_the_name_of_a_public_name():
    """`import warmstart.train` would put the module where the function was."""
    tree = ast.parse(MODULES["warmstart"].read_text(encoding="utf-8"))
    public = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert len(public) == 1, "warmstart/__init__.py must assign __all__ once, as a plain list"
    assert {"compose", "train"} <= set(public[0])
    children = {name.removeprefix("warmstart.").split(".")[0] for name in MODULES}
    assert not children & set(public[0])


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import warmstart", id="package"),
        pytest.param("import warmstart.cli", id="cli"),
        pytest.param(
            "import " + ", ".join(name for name in MODULES if name.startswith("warmstart.results")),
            id="results",
        ),
    ],
)
def test_importing_brings_no_torch(code: str):
    done = run_python("-c", f"{code}; import sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "warmstart" in loaded
    assert not loaded & TORCH


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_asking_the_command_brings_no_torch(flag: str):
    done = run_python("-X", "importtime", "-m", "warmstart", flag)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "warmstart.cli" in loaded
    assert not loaded & (TORCH | {"hydra", "numpy", "sklearn"})
