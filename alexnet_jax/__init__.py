"""The 2012 AlexNet, executable: two towers on a device mesh, trained, tested and taken apart.

The network alone needs jax and flax: `from alexnet_jax import AlexNet, Network, make_mesh`. A run
is `alexnet_jax.training.train(config, workdir)`, with a configuration of `alexnet_jax.settings`;
what it learned is asked by `alexnet_jax.load(workdir)`.
"""

from alexnet_jax import signals

TYPE_CHECKING = False  # typing's own would double the time of this import
if TYPE_CHECKING:
    from typing import Any

if signals.is_command():
    signals.COMMAND.take()  # before anything that takes its time is imported

__version__ = "0.1.0"
__all__ = ["AlexNet", "Network", "load", "make_mesh"]


def __getattr__(name: str) -> "Any":
    """The network's names, imported when first asked for: `import alexnet_jax` is instant."""
    if name == "load":
        from alexnet_jax.evaluation.trained_network import load

        return load
    if name in __all__:
        from alexnet_jax import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
