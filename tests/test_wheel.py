"""The wheel works by itself: installed in a fresh environment, in an empty folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CHECKOUT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in `folder` without this process's Python paths; return its standard output."""
    own = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def texts(folder: Path) -> dict[str, str]:
    """Return relative path -> text of every YAML file under a folder."""
    files = sorted(folder.rglob("*.yaml"))
    return {str(file.relative_to(folder)): file.read_text(encoding="utf-8") for file in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the build backend itself, which needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=CHECKOUT)
    (built,) = folder.glob("warmstart-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of a fresh environment that holds the wheel.

    The libraries are seen through a .pth file, since installing them again takes a minute and 5 GB.
    Python does not read .pth files in a folder that is added this way, so the editable install of
    this checkout stays out.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", programs / "python"]
    run(*pip, "install", "--no-index", "--no-deps", wheel, folder=folder)
    # Only now, or pip would take this checkout's own install for one that is already there.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


@pytest.fixture(scope="module")
def package(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the fresh environment imports warmstart from."""
    empty = tmp_path_factory.mktemp("empty")
    code = "import warmstart; print(warmstart.__file__)"
    return Path(run(installed / "python", "-c", code, folder=empty).strip()).parent


def train(installed: Path, folder: Path, *arguments: str) -> dict:
    """Train two steps in `folder` with the installed command and return the one record on disk."""
    job = ["data=digits", "init=scratch", "steps=2", "out=here", *arguments]
    run(installed / "warmstart", "train", *job, folder=folder)
    (record,) = folder.glob("here/runs/*/result.json")
    return json.loads(record.read_text(encoding="utf-8"))


def test_the_wheel_holds_the_package_and_no_more(wheel: Path):
    """Templates travel too, and no ignore pattern for data or output takes a folder of ours out."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    source = CHECKOUT / "src"
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    code = {str(path) for path in files if "__pycache__" not in path.parts}
    assert {name for name in names if not name.startswith("warmstart/conf/")} == code


def test_the_fresh_environment_imports_the_wheel(installed: Path, package: Path):
    assert package.is_relative_to(installed.parent)


def test_the_configs_travel_in_the_wheel(package: Path):
    shipped = texts(CHECKOUT / "conf")
    assert "train.yaml" in shipped
    assert texts(package / "conf") == shipped


def test_an_editable_install_has_no_second_copy_of_the_configs():
    assert not (CHECKOUT / "src" / "warmstart" / "conf").exists()
    assert not (Path(sysconfig.get_path("purelib")) / "warmstart").exists()


def test_one_run_in_an_empty_folder(installed: Path, package: Path, tmp_path: Path):
    record = train(installed, tmp_path)
    assert record["status"] == "finished"
    assert record["config"]["steps"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"here"}


def test_a_folder_of_own_configs_is_added(installed: Path, package: Path, tmp_path: Path):
    own = OmegaConf.load(package / "conf" / "optimizer" / "sgd.yaml")
    own.lr = 0.0123
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    OmegaConf.save(own, tmp_path / "mine" / "optimizer" / "gentle.yaml")
    record = train(installed, tmp_path, "--config-dir", "mine", "optimizer=gentle")
    assert record["choices"]["optimizer"] == "gentle"
    assert record["config"]["optimizer"]["lr"] == 0.0123
