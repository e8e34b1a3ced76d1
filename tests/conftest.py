"""Eight CPU devices for every test, and the fixtures that several files share."""

import os
import tempfile
from types import ModuleType

import jax
import network_fixtures as fixtures
import numpy as np
import pytest
from run_fixtures import Tiny

from alexnet_jax.model import AlexNet, Network, make_mesh
from alexnet_jax.signals import COMMAND

QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"


def pytest_configure(config: pytest.Config) -> None:
    """Before the first use of jax: the CPU also where there is something faster, since the tests
    compare digits, some in float64, on meshes of up to eight devices. But for those with the marker
    `device`, which want what is there.

    Three quarters of the time of the tests is XLA's, and a third of that is LLVM's, which need not
    optimize what runs once. Whole runs are processes of their own, compiled as a user's are."""
    if config.option.markexpr != "device":
        jax.config.update("jax_platforms", "cpu")
        os.environ["JAX_PLATFORMS"] = "cpu"  # of the processes that tests start
        with pytest.MonkeyPatch.context() as patch:  # the processes that tests start have it not
            patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {QUICK_TO_COMPILE}")
            jax.config.update("jax_num_cpu_devices", 8)
            jax.devices()
    config.option.loadscopereorder = False  # of pytest-xdist: by the order below instead
    if not hasattr(config, "workerinput"):  # the first process; those of pytest-xdist inherit it
        config.stash[COMPILED] = tempfile.TemporaryDirectory(prefix="alexnet_jax-")
        outer = os.environ.get("JAX_COMPILATION_CACHE_DIR", config.stash[COMPILED].name)
        os.environ.setdefault("ALEXNET_JAX_COMPILED", outer)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: with one of them at the end all workers but one would wait."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


LONGEST = ("test_run", "test_imagenet", "test_prepare", "test_cli", "test_processes", "test_cpu")
COMPILED = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Forgets what the processes that the tests started have compiled."""
    if COMPILED in config.stash:
        config.stash[COMPILED].cleanup()


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has said of its end, or the code it left with, is not the next one's."""
    monkeypatch.setattr(COMMAND, "said", False)
    monkeypatch.setattr(COMMAND, "code", 0)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The second implementation, `torch_reference`. Without torch: skips, but fails in CI."""
    try:
        import torch_reference
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        reason = "no torch to compare with: pip install -e '.[reference]'"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return torch_reference


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The smallest run, one for all files, so that its programs are compiled once."""
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def full_size() -> fixtures.FullSize:
    """Computed once, on one device, in float64.

    In float32 one response in 130,000 is so near to zero that its ReLU opens on one processor and
    not on another, and gradients then differ by a hundredth: no tolerance would mean anything.
    """
    network = Network()
    model = AlexNet(network, make_mesh(1, 1))
    images = fixtures.random_images(2, 224)
    labels = fixtures.random_labels(2, 1000)
    masks = fixtures.random_masks(network, 2)
    drawn = jax.jit(model.init)(jax.random.key(0), images[:1].astype(np.float32))["params"]
    params = jax.tree.map(lambda array: np.asarray(array, np.float64), drawn)
    with jax.enable_x64(True):
        (loss, logits), gradients = jax.jit(fixtures.gradient_function(model))(
            params, images, labels, masks
        )
    return fixtures.FullSize(network, params, images, labels, masks, logits, loss, gradients)
