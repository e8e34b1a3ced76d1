"""The paper's section 5: what happens in a training run.

first_weights   drawn, or another run's          step          one update, compiled
update_rule     momentum, decay and rates        loop          steps, validations, saves
clock, report   what is measured, and said       session       `train`: from the start to the test
"""

from typing import Any

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """`train`, imported when first asked for: its parts are importable without grain and orbax."""
    if name == "train":
        from alexnet_jax.training.session import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
