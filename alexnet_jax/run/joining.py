"""How several processes meet: by JAX's own means, with its traps out of the way."""

import importlib
import os
import re
import socket
import sys
import time

from alexnet_jax import streams
from alexnet_jax.errors import UserError
from alexnet_jax.run.hosts import LAST_WORDS, PATIENCE, name, number
from alexnet_jax.signals import COMMAND

FATAL = b"the JAX distributed service detected fatal errors"
NUMBERS = re.compile(rb"[\d, ]+\n")  # of processes, alone in a line
LAUNCHERS = {  # how many processes they have started, and which this is
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",  # of Open MPI JAX knows those before 5
    "PMI_SIZE": "PMI_RANK",  # MPICH, Intel MPI
}
NOISE = re.compile(  # a record of JAX's own log, and what the lines after its first look like
    rb"[IWE]\d{4} .*(coordination|distributed)|.*\[type\.googleapis\.com/tensorflow|"
    rb"Additional GRPC error|:UNKNOWN:Error"
)
GLOO = re.compile(  # what its threads say of each other, all at once
    rb"(\[Gloo\] Rank | is connected to | peer ranks\. |"
    rb"Expected number of connected peer ranks is : |\d+|\s)*"
)

_meeting = ""  # while this process waits for all to come: what it says if they do not
_ending = False  # JAX's end has begun


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    patience: int = PATIENCE,
    *,
    listen: bool = False,
) -> None:
    """Meets the other processes; before the first use of a device.

    With no arguments, or the coordinator alone, JAX finds them under SLURM, Open MPI, Kubernetes
    and on Cloud TPU; where there are none, this one is alone.

    Args:
        coordinator: HOST:PORT where process 0 can be reached by all.
        processes: how many there are.
        process: which of them this is, from 0.
        patience: seconds for all to come, and after which one that is silent has gone.
        listen: take stderr over, and end this process with a sentence where JAX's C++ would with a
            page; for a command.

    Raises:
        UserError: an argument is wrong, the port is taken, or the others do not come.
    """
    launched = processes is process is None and _launched_by_others()
    if not launched:
        if coordinator is processes is process is None:
            return
        _check(coordinator, processes, process)
    import jax

    os.environ.setdefault("grpc_proxy", "")  # or gRPC asks http_proxy for a machine of the cluster
    jax.config.update("jax_check_proxy_envs", False)
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself
    if listen:
        streams.overhear(_hear)
        streams.slow_abort()
    global _meeting
    _meeting = (
        f"not all processes met{f' at {coordinator}' if coordinator else ''} within {patience} s: "
        "is each of them started, with a number of its own, can all reach process 0 (localhost is "
        "another machine on each), and its port? --patience gives them longer"
    )
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method=None if launched else "deactivate",
            initialization_timeout=patience,
            heartbeat_timeout_seconds=patience,
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{_meeting} ({reason})") from error
    _meeting = ""


def _hear(line: bytes) -> bool:
    """Whether a line of C++ on stderr is for the user; the first of JAX's end are the last."""
    global _ending
    _ending = _ending or FATAL in line
    if not _ending:
        return not (COMMAND.said or NOISE.match(line) or GLOO.fullmatch(line))
    if line.endswith(b":\n"):  # which processes have gone stands in the next line
        return False
    gone = line if NUMBERS.fullmatch(line) else b"0" if b"leader task" in line else b""
    others = [task for task in map(int, re.findall(rb"\d+", gone)) if task != number()]
    if COMMAND.claim(128 + COMMAND.came if COMMAND.came else 1):
        who = f"process {others[0]}" if others else "another process"
        why = f"{who} has gone, and so does this one: {COMMAND.kept}{COMMAND.again}"
        print(f"error: {name()}{_meeting or why}", file=sys.stderr, flush=True)
    else:
        time.sleep(LAST_WORDS)  # who says the sentence may be about to, and ends then
    os._exit(COMMAND.code)


def _check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Refuses what JAX would answer by a crash or by minutes of silence."""
    if coordinator is None or processes is None or process is None:
        raise UserError(
            "--coordinator=HOST:PORT, --processes=N and --process=0..N-1 go together; under SLURM, "
            "Open MPI, Kubernetes and on Cloud TPU leave out all three"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT, such as node1:1234")
    if processes < 1:
        raise UserError(f"--processes={processes}: expected 1 or more")
    if not 0 <= process < processes:
        raise UserError(f"--process={process}: expected 0 to {processes - 1}")
    try:
        family, *_, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--coordinator={coordinator}: {host} is not known ({error})") from error
    if process == 0:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("", address[1]))
            except OSError as error:
                raise UserError(
                    f"--coordinator={coordinator}: port {port} of this machine cannot be used "
                    f"({error.strerror}): give another to all processes"
                ) from error


def _launched_by_others() -> bool:
    """Whether a launcher that JAX knows has started this process as one of several.

    Raises:
        UserError: one has that JAX does not know, or JAX cannot find the others.
    """
    found = _by_jax()
    for size, rank in LAUNCHERS.items():
        count = os.environ.get(size, "")
        if count.isdecimal() and int(count) > 1 and int(count) != found:
            raise UserError(
                f"this process is one of {count} ({size}), but JAX does not understand this "
                f"launcher: give --coordinator=HOST:PORT, --processes=${size} and "
                f"--process=${rank} (see experiments/clusters/README.md)"
            )
    return found > 1


def _by_jax() -> int:
    """How many processes there are, by the launchers that JAX knows."""
    from jax._src.clusters import ClusterEnv

    for cluster in ClusterEnv._cluster_types:
        launcher = cluster.name or cluster.__name__.removesuffix("Cluster")  # K8s has no name
        # A pod of Kubernetes is one of several only in an indexed job.
        kubernetes = launcher.lower() == "k8s"
        if cluster.opt_in_only_method or (kubernetes and "JOB_COMPLETION_INDEX" not in os.environ):
            continue
        try:
            if kubernetes and "KUBERNETES_SERVICE_HOST" in os.environ:
                importlib.import_module("kubernetes")  # without it JAX only warns
            if cluster.is_env_present():
                return int(cluster.get_process_count())
        except Exception as error:
            raise UserError(
                f"this process seems to be one of several under {launcher}, but JAX cannot "
                f"find the others ({' '.join(str(error).split())}): give --coordinator=HOST:PORT, "
                "--processes=N and --process=K"
            ) from error
    return 1
