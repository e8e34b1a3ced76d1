"""Which image of a source goes into which split of a cache."""

import math

import numpy as np

from alexnet_jax.data.sources.record import Source, Split
from alexnet_jax.errors import UserError

HOLDOUT_SEED = 2012  # which images are held out is a fact of the dataset, not of a run's seed

Plan = dict[str, tuple[Split, np.ndarray]]  # split name: the split to read, which of its images


def plan_splits(source: Source, size: int, holdout: float) -> Plan:
    """Says which source image goes where, and refuses what cannot be trained on."""
    check_text("the data source", source.name)
    if size < 1:
        raise UserError(f"--config.data.size={size}: expected a positive number of pixels")
    if len(source.class_names) < 2:
        raise UserError(
            f"{source.name} has {len(source.class_names)} class(es); at least two are needed"
            f" (found: {', '.join(source.class_names) or 'none'})"
        )
    for name in source.class_names:
        if "\n" in name:
            raise UserError(
                f"{source.name} has a class called {name!r}: a name with a line break can stand in "
                "no list of names; rename it"
            )
    if len(source.splits.get("train", ())) == 0:
        raise UserError(f"{source.name} has no training images (splits: {sorted(source.splits)})")
    plan = {name: (split, np.arange(len(split))) for name, split in source.splits.items()}
    if not math.isfinite(holdout):
        raise UserError(f"--config.data.holdout={holdout}: expected a number of images, or a share")
    if holdout:
        if "validation" in plan:
            raise UserError(
                f"{source.name} has a validation split of its own: set "
                f"--config.data.holdout={number(holdout)} to 0"
            )
        split, indices = plan["train"]
        count = round(holdout * len(indices)) if 0 < holdout < 1 else int(holdout)
        if not 0 < count < len(indices) or (holdout > 1 and count != holdout):
            raise UserError(
                f"--config.data.holdout={number(holdout)}: expected 1 to {len(indices) - 1}, one "
                "less than the training images, or a share between 0 and 1"
            )
        order = np.random.Generator(np.random.Philox(HOLDOUT_SEED)).permutation(len(indices))
        plan["validation"] = split, np.sort(order[:count])
        plan["train"] = split, np.sort(order[count:])
    return plan


def number(value: float) -> str:
    """Returns all the digits of a number, and no point where it is a whole one."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def check_text(what: str, text: str) -> None:
    """Refuses a path whose bytes are no UTF-8 text: it could be written into no file.

    Raises:
        UserError: it is such a path.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} is called {text!a}, which is not UTF-8: rename it, or give a link to it whose "
            "name is"
        ) from error
