#!/usr/bin/env bash
# Install what the tests need beside Python packages, on Debian or Ubuntu: a headless Chromium with its
# driver, in which the report is opened, Slurm, of which slurm_test_cluster.sh makes a cluster, and the
# means to make a virtual environment.
set -euo pipefail

driver=$(command -v chromedriver || true)
browser=$(command -v chromium || true)
slurm=$(command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged || true)
if [[ -n $driver && -n $browser && $slurm == *munged ]] && python3 -c 'import ensurepip' 2>/dev/null; then
    echo "system packages: chromium, its driver, Slurm and python3-venv are here"
    exit 0
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then as_root=(sudo); fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get -o Acquire::Retries=3 -qq update
"${as_root[@]}" apt-get -o Acquire::Retries=3 -qq install --yes --no-install-recommends \
    chromium chromium-driver fonts-dejavu-core python3-venv slurmctld slurmd slurm-client munge >/dev/null
chromium --version
slurmctld -V
