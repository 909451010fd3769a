"""A real Slurm cluster for the tests of this folder: four cores, four GPUs that are only names."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from warmstart.launch.slurm import SlurmEngine

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_test_cluster.sh"
DAEMONS = ("slurmctld", "slurmd", "munged", "sbatch")


def _missing(reason: str) -> None:
    # Under CI a skipped test would look like a passed one.
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """Start a cluster of this test process's own, and return its folder."""
    if missing := [name for name in DAEMONS if shutil.which(name) is None]:
        _missing(f"needs Slurm's {', '.join(missing)} (scripts/system_packages.sh)")
    if os.getuid() != 0:
        _missing("a test cluster needs root: slurmd refuses anybody else")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    before = os.environ.get("SLURM_CONF")
    started = subprocess.run(["bash", SCRIPT, "up", folder], capture_output=True, text=True)
    if started.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        _missing(f"the test cluster does not start: {started.stderr}")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    subprocess.run(["bash", SCRIPT, "down", folder], check=True, capture_output=True)
    del os.environ["SLURM_CONF"]
    if before is not None:
        os.environ["SLURM_CONF"] = before


@pytest.fixture
def engine(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., SlurmEngine]]:
    """Return a function that makes an engine on the cluster, which does what `slurm_work` says.

    Its lines go to the list ``said``. What it leaves in the queue is cancelled.
    """
    import slurm_work

    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    monkeypatch.setenv("PYTHONPATH", path)  # for the jobs

    def make(**options: object) -> SlurmEngine:
        said: list[str] = []
        chosen = {"poll_seconds": 0.3, "mem_gb": 0.3, "work": slurm_work.play, **options}
        made = SlurmEngine(tmp_path / "slurm", say=said.append, **chosen)  # type: ignore[arg-type]
        made.said = said  # type: ignore[attr-defined]
        return made

    yield make
    for words in ([], ["--signal=KILL", "--full"]):
        subprocess.run(["scancel", "--quiet", "--user=root", *words], check=False)
