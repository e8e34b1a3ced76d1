"""How processes meet: what is refused before JAX would crash or be silent, and what is heard."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from jax._src.clusters import ClusterEnv

from alexnet_jax.errors import UserError
from alexnet_jax.run import hosts, joining
from experiments.shared.machine import free_port

LAUNCHERS = (
    "SLURM_JOB_ID",
    "OMPI_MCA_orte_hnp_uri",
    "KUBERNETES_SERVICE_HOST",
    "TPU_SKIP_MDS_QUERY",
)


@pytest.fixture
def initialized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `jax.distributed.initialize` was asked, which does nothing; the settings come back."""
    asked: list[tuple[Any, ...]] = []
    for name in ("grpc_proxy", "no_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    changed: dict[str, Any] = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *given, **more: asked.append((given, more, changed))
    )
    return asked


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [("h:1", None, None), (None, 2, None), (None, None, 0), ("h:1", 2, None)]
)
def test_the_three_go_together(given: Any, initialized: list[Any]) -> None:
    with pytest.raises(UserError, match="--coordinator=HOST:PORT, --processes=N and --process="):
        joining.join(*given)
    assert not initialized


@pytest.mark.parametrize(
    "address", ["", "node1", "node1:", ":1234", "node1:0", "node1:65536", "a:b"]
)
def test_an_address_is_a_host_and_a_port(address: str, initialized: list[Any]) -> None:
    with pytest.raises(UserError, match=f"--coordinator={address}: expected HOST:PORT"):
        joining.join(address, 2, 0)
    assert not initialized


@pytest.mark.parametrize(("count", "number", "said"), [
    (0, 0, "--processes=0: expected 1 or more"),
    (2, 2, "--process=2: expected 0 to 1"),
    (2, -1, "--process=-1: expected 0 to 1"),
])  # fmt: skip
def test_numbers_count_from_zero(
    count: int, number: int, said: str, initialized: list[Any]
) -> None:
    with pytest.raises(UserError, match=said):
        joining.join("localhost:1234", count, number)
    assert not initialized


def test_a_host_that_nobody_knows(initialized: list[Any]) -> None:
    with pytest.raises(
        UserError, match=r"--coordinator=no\.such\.invalid:12: no\.such\.invalid is not known"
    ):
        joining.join("no.such.invalid:12", 2, 1)
    assert not initialized


def test_a_port_that_is_taken(initialized: list[Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of this machine cannot be used .*in use"):
            joining.join(f"localhost:{port}", 2, 0)
        assert not initialized
        joining.join(f"localhost:{port}", 2, 1)  # which process 0 has by then
    assert len(initialized) == 1


# --- what JAX is asked ----------------------------------------------------------------------------


def test_an_address_by_hand_asks_no_cluster_and_no_proxy(
    initialized: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # where each of several runs has a part of a job
    address = f"127.0.0.1:{free_port()}"
    joining.join(address, 2, 0, patience=7)
    [(given, more, changed)] = initialized
    assert given == (address, 2, 0)
    assert more == {
        "cluster_detection_method": "deactivate",
        "initialization_timeout": 7,
        "heartbeat_timeout_seconds": 7,
    }
    assert changed == {"jax_check_proxy_envs": False, "jax_enable_preemption_service": False}
    assert os.environ["grpc_proxy"] == ""  # noqa: SIM112


def test_a_launcher_knows_all_but_an_address_by_hand(
    initialized: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`JAX_COORDINATOR_ADDRESS` under SLURM."""
    monkeypatch.setattr(joining, "_launched_by_others", lambda: True)
    joining.join("node1:1234")
    [(given, more, _)] = initialized
    assert given == ("node1:1234", None, None)
    assert more["cluster_detection_method"] is None


def test_others_that_do_not_come(initialized: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out.\nAdditional information: 12")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError) as found:
        joining.join(address, 3, 1, patience=7)
    said = str(found.value)
    assert said.startswith(f"not all processes met at {address} within 7 s: is each of them start")
    assert said.endswith("--patience gives them longer (DEADLINE_EXCEEDED: Barrier timed out.)")


def alone(monkeypatch: pytest.MonkeyPatch, *clusters: Any) -> None:
    for cluster in clusters:
        cluster.opt_in_only_method = getattr(cluster, "opt_in_only_method", False)
    monkeypatch.setattr(ClusterEnv, "_cluster_types", list(clusters))


def cluster(name: str, count: int, **more: Any) -> Any:
    return SimpleNamespace(
        name=name, is_env_present=lambda: True, get_process_count=lambda: count, **more
    )


def test_without_a_launcher_a_process_is_alone(
    initialized: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    joining.join()
    alone(monkeypatch, cluster("slurm", 1))  # a job of one task
    joining.join()
    alone(monkeypatch, cluster("mpi4py", 2, opt_in_only_method=True))  # JAX only asks it if told
    joining.join()
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    alone(monkeypatch, cluster("k8s", 2))  # a pod, but of no indexed job
    joining.join()
    assert not initialized


def test_a_launcher_says_where_the_others_are(
    initialized: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch, cluster("slurm", 2))
    joining.join(patience=9)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    alone(monkeypatch, cluster("k8s", 2))
    joining.join(patience=9)
    assert [given for given, _, _ in initialized] == [(None, None, None)] * 2
    assert all(more["cluster_detection_method"] is None for _, more, _ in initialized)


def test_a_launcher_that_jax_does_not_understand(
    initialized: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        raise KeyError("SLURM_NTASKS")

    strange = SimpleNamespace(name="slurm", is_env_present=lambda: True, get_process_count=count)
    alone(monkeypatch, strange)
    with pytest.raises(UserError, match=r"one of several under slurm.*SLURM_NTASKS.*--coordinator"):
        joining.join()
    assert not initialized


# --- what C++ says --------------------------------------------------------------------------------

FATAL = (
    b"F1126 07:12:03.123456   12 client.h:80] Terminating process because the JAX distributed "
    b"service detected fatal errors. This most likely indicates that another task died. Status: "
)


@pytest.fixture
def hear(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Hears lines in process 1 of 3, where the end of the process is an exception."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    def listen(*lines: bytes) -> None:
        for line in lines:
            assert not joining._hear(line)

    monkeypatch.setattr(os, "_exit", leave)
    state = SimpleNamespace(num_processes=3, process_id=1)
    monkeypatch.setattr(hosts, "_state", lambda: state)
    for name, value in (("kept", "saved"), ("again", "; again")):
        monkeypatch.setattr(joining.COMMAND, name, value)
    monkeypatch.setattr(joining, "_ending", False)
    monkeypatch.setattr(joining, "LAST_WORDS", 0)
    monkeypatch.setattr(joining, "_meeting", "")
    return listen


@pytest.mark.parametrize(
    ("lines", "who"),
    [
        ([b"UNAVAILABLE: Either the leader task was preempted/died or this task\n"], "process 0"),
        ([b"UNAVAILABLE: The following tasks are unhealthy:\n", b"2\n"], "process 2"),
        ([b"UNAVAILABLE: The following tasks are unhealthy:\n", b"1, 2\n"], "process 2"),
        ([b"UNAVAILABLE: The following tasks are unhealthy:\n", b"1\n"], "another process"),
        ([b"DEADLINE_EXCEEDED: Deadline exceeded\n"], "another process"),
    ],
)
def test_the_end_that_jax_would_make_is_one_sentence(
    lines: list[bytes], who: str, hear: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    lines[0] = FATAL + lines[0]
    for said in (
        f"error: process 1 of 3: {who} has gone, and so does this one: saved; again\n",
        "",  # it is said once
    ):
        with pytest.raises(SystemExit) as ended:
            hear(*lines)
        assert ended.value.code == 1
        assert capfd.readouterr() == ("", said)


def test_who_has_said_why_it_goes_ends_with_the_code_of_that(
    hear: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    """What another's end makes JAX say meanwhile is neither said nor the reason."""
    assert joining.COMMAND.claim(2)
    hear(b"E1126 07:12:03.1 1 pjrt_client.cc:3] out of memory\n")
    with pytest.raises(SystemExit) as ended:
        hear(FATAL + b"UNAVAILABLE: Either the leader task was preempted/died or this task\n")
    assert ended.value.code == 2
    assert capfd.readouterr() == ("", "")


def test_who_was_asked_to_stop_ends_with_the_code_of_that(
    hear: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining.COMMAND, "came", 15)
    with pytest.raises(SystemExit) as ended:
        hear(FATAL)
    assert ended.value.code == 143


def test_where_they_have_not_met_nobody_has_gone(
    hear: Callable[..., None],
    initialized: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*given: Any, **more: Any) -> None:
        hear(FATAL + b"DEADLINE_EXCEEDED: Deadline exceeded\n")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(SystemExit):
        joining.join(address, 3, 1, patience=7)
    said = capfd.readouterr().err
    assert said.startswith(f"error: process 1 of 3: not all processes met at {address} within 7 s")


def test_once_they_have_met_that_is_no_longer_the_reason(
    hear: Callable[..., None], initialized: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    joining.join(f"127.0.0.1:{free_port()}", 3, 1, patience=7)
    with pytest.raises(SystemExit):
        hear(FATAL + b"DEADLINE_EXCEEDED: Deadline exceeded\n")
    assert "another process has gone" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"terminate called after throwing an instance of 'std::bad_alloc'\n", True),
        (b"I1126 07:12:03.1 1 coordination_service.cc:12] Connected\n", False),
        (
            b"[Gloo] Rank 0 is connected to 1 peer ranks. "
            b"Expected number of connected peer ranks is : 1\n",
            False,
        ),
        (b"3 peer ranks. Expected number of connected peer ranks is : 3\n", False),
        (b"E1126 07:12:03.1 1 distributed_runtime.cc:3] lost\n", False),
        (b"E1126 07:12:03.1 1 pjrt_client.cc:3] out of memory\n", True),
        (
            b"The tasks have crashed. Check the task logs for an earlier error, or scheduler "
            b"events (e.g. preemption, eviction) to debug further. "
            b"[type.googleapis.com/tensorflow.CoordinationServiceError='']\n",
            False,
        ),
        (b"Additional GRPC error information from remote target coordination_service\n", False),
        (b':UNKNOWN:Error received from peer  {grpc_message:"Socket closed"}\n', False),
    ],
)
def test_what_is_for_the_developers_of_jax_is_not_shown(line: bytes, shown: bool) -> None:
    assert joining._hear(line) is shown


def test_a_variable_that_is_no_number_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_jax.main", "--mode=describe"],
        env=os.environ | {"JAX_NUM_PROCESSES": "two"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: flag --processes=two") and done.stderr.count("\n") == 1
