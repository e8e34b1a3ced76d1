"""Processes that a launcher has started, by its variables alone; and what `experiments/clusters`
gives to launchers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import Tiny

from alexnet_jax import main as training
from alexnet_jax.errors import UserError
from alexnet_jax.run import joining
from experiments.shared.machine import free_port

CLUSTERS = Path(__file__).parents[2] / "experiments" / "clusters"
JOINING = """
import json, sys
from alexnet_jax import settings
from alexnet_jax.run import hosts, joining
from alexnet_jax.run.devices import mesh_of, start_devices

joining.join(patience=20, listen=True)
config = settings.load(sys.argv[1])
start_devices(config)
mesh = mesh_of(config)
owners = [device.process_index for device in mesh.devices.flat]
said = [hosts.number(), hosts.count(), [*mesh.devices.shape], owners, hosts.gather(sys.argv[2])]
print(json.dumps(said))
hosts.leave(0)
"""
GONE = ("SLURM_", "OMPI_", "PMI_", "JAX_COORD", "JAX_NUM_PROC", "JAX_PROCESS_ID", "KUBERNETES_")


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher, wherever the tests run."""
    for name in [*os.environ]:
        if name.startswith((*GONE, "JOB_COMPLETION_INDEX", "grpc_proxy")):
            monkeypatch.delenv(name)
    return monkeypatch


def slurm(port: int, process: int) -> dict[str, str]:
    """The variables of one of two tasks on a node, as JAX reads them; and a proxy, to which the
    processes' first words would go."""
    return {
        "SLURM_JOB_ID": "17",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": f"{process}",
        "SLURM_LOCALID": f"{process}",
        "JAX_COORDINATOR_PORT": f"{port}",
        "http_proxy": "http://127.0.0.1:9",
    }


def test_two_tasks_of_slurm_meet(outside: pytest.MonkeyPatch, tiny: Tiny) -> None:
    """A tower each, by the same command, which says nothing about the other."""
    port, tasks = free_port(), []
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for task in range(2):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"} | slurm(port, task)
        command = [sys.executable, "-c", JOINING, str(tiny.config), f"task {task}"]
        tasks.append(subprocess.Popen(command, env=environment, **pipes))
    try:
        said = [task.communicate(timeout=60) for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [err for _, err in said] == ["", ""]
    for number, (out, _) in enumerate(said):
        assert json.loads(out) == [number, 2, [1, 2], [0, 1], ["task 0", "task 1"]]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (  # Open MPI 5, which no longer says where it can be reached
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"},
            r"one of 4 \(OMPI_COMM_WORLD_SIZE\).*--process=\$OMPI_COMM_WORLD_RANK",
        ),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, r"one of 2 \(PMI_SIZE\).*--coordinator=HOST:PORT"),
        (  # the package is missing, and JAX would be content with a warning
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
            r"under K8s, .*kubernetes.*--coordinator=HOST:PORT",
        ),
    ],
)
def test_one_of_several_does_not_run_alone(
    variables: dict[str, str], said: str, outside: pytest.MonkeyPatch
) -> None:
    outside.setitem(sys.modules, "kubernetes", None)  # type: ignore[arg-type]
    for name, value in variables.items():
        outside.setenv(name, value)
    with pytest.raises(UserError, match=said):
        joining.join()


def test_one_alone_under_a_launcher(outside: pytest.MonkeyPatch) -> None:
    """A pod of no indexed job, `mpirun -n 1`."""
    outside.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for name in joining.LAUNCHERS:
        outside.setenv(name, "1")
    joining.join()


# --- experiments/clusters -------------------------------------------------------------------------


def parsed(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The flags and fields of a command, as the program understands them, in a new process."""
    assert words[words.index("-m") + 1] == "alexnet_jax.main"
    code = (
        "import json, sys; from alexnet_jax import main, settings\n"
        "fields = main.parse_flags(sys.argv[1:])\n"
        "config = settings.load(main.FLAGS.config or 'embedded')\n"
        "settings.check(settings.override(config, fields))\n"
        "names = ('workdir', 'coordinator', 'processes', 'process')\n"
        "print(json.dumps([{name: main.FLAGS[name].value for name in names}, fields]))"
    )
    command = [sys.executable, "-c", code, *words[words.index("-m") + 2 :]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    flags, fields = json.loads(done.stdout)
    return flags, fields


def test_the_jobset(outside: pytest.MonkeyPatch) -> None:
    """Its command is one of the program, and its variables are those that the flags read."""
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load((CLUSTERS / "jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value", "1") for one in container["env"]}
    for name, value in variables.items():
        outside.setenv(name, value)
    flags, _ = parsed(container["command"])
    name = jobset["metadata"]["name"]
    assert flags["coordinator"] == f"{name}-{job['name']}-0-0.{name}:1234"
    assert flags["processes"] == spec["parallelism"] == spec["completions"] == 2
    assert flags["process"] == 1
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert any(flags["workdir"].startswith(f"{mount}/") for mount in mounts)


def run_with(
    program: str, script: str, folder: Path, *arguments: str, **variables: str
) -> list[str]:
    """What a script gives to a program that is not here, word by word."""
    stand_in = folder / program
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", **variables}
    command = ["bash", str(CLUSTERS / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_batch_script(outside: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ten lines, of which SLURM reads those before the first command."""
    lines = (CLUSTERS / "slurm.sbatch").read_text().splitlines()
    assert len(lines) == 10 and lines[0] == "#!/bin/bash"
    options = [line for line in lines if line.startswith("#SBATCH ")]
    assert lines[1 : 1 + len(options)] == options
    words = run_with("srun", "slurm.sbatch", tmp_path, "--config.seed=3", WORKDIR="/shared/W")
    flags, fields = parsed(words)
    assert flags["workdir"] == "/shared/W" and fields == ["seed=3"]
    assert flags["coordinator"] is None


def test_the_command_for_a_pod(outside: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = run_with("gcloud", "tpu_pod.sh", tmp_path, "--config.seed=3", TPU="pod", ZONE="zone")
    assert words[:6] == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone"]
    assert words[6] == "--worker=all"
    command = words[7].removeprefix("--command=").split()
    _, fields = parsed(command)
    assert "seed=3" in fields


def test_the_page_names_what_is_there() -> None:
    """Every file, and every variable that the program reads."""
    page = (CLUSTERS / "README.md").read_text()
    for file in CLUSTERS.iterdir():
        assert file.name == "README.md" or f"]({file.name})" in page
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        assert f"`{name}`" in page and name in Path(training.__file__).read_text()
    flags = set(re.findall(r"`--(\w+)[=`]", page)) - {"gpus", "kill"}
    assert {"patience", "workdir", "coordinator"} <= flags
