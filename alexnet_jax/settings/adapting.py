"""What a fine-tuning need not be told: its network is that of the weights, and the images say more.

Where `config.adapt` is on, as in `--config=finetune`,

    model.*, data.size                            are those of `init_from`
    model.classes, data.validation, data.test,
    data.holdout, batch_size, mesh.data           follow from the images

unless they are set: on the command line, or in a file to a value other than that of
`configs/base.py`. A resumed run has them from its own `config.json`, and no longer looks at the
weights or the images.
"""

import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from alexnet_jax.errors import ConfigError
from alexnet_jax.settings import files
from alexnet_jax.settings.fields import flatten
from alexnet_jax.settings.presets import PRESETS

FIELDS = (
    "model.", "data.size", "data.validation", "data.test", "data.holdout", "batch_size",
    "mesh.data",
)  # fmt: skip
ASIDE = 5  # one image in so many is held out where all are of the split 'train'
MOST = 128  # images a step, as in 2012
FEW = 8  # images a step, until an epoch has more than ten such steps

Fields = dict[str, Any]


class Images(NamedTuple):
    """What is to be known of a dataset.

    Attributes:
        name: where it is.
        classes: their number.
        counts: images by split.
        size: their side in pixels if they are a cache's, of which none can be held out; else None.
    """

    name: str
    classes: int
    counts: Mapping[str, int]
    size: int | None


def adapt(
    config: ConfigDict, assignments: Collection[str] = (), workdir: str | Path | None = None
) -> ConfigDict:
    """The configuration with all that nobody has set, and `adapt` off; says what is from where.

    Args:
        config: if its `adapt` is off, there is nothing to do.
        assignments: what the user has set of it, as for `override`, to whatever value.
        workdir: of the run; if it has a config.json, all comes from there, and nothing is said.

    Raises:
        ConfigError: weights or images are not named, or there are no weights.
        UserError: there are no images.
    """
    if not config.adapt:
        return config
    config = config.copy_and_resolve_references()
    config.adapt = False
    base = flatten(files.base(config.preset if config.preset in PRESETS else "reconciled"))
    named = [assignment.partition("=")[0] for assignment in assignments]
    own = {*named, *(field for field, value in flatten(config).items() if value != base[field])}

    def take(fields: Fields) -> list[str]:
        new = {field: value for field, value in fields.items() if field not in own}
        config.update_from_flattened_dict(new)
        return [f"{field}={value}" for field, value in new.items()]

    saved = Path(workdir or "").expanduser() / "config.json"
    if workdir and saved.exists():
        before = flatten(files.read(saved))
        take({field: value for field, value in before.items() if field.startswith(FIELDS)})
        return config
    there = flatten(read_source(config.init_from))
    images = _images(config.data, own)
    take({field: value for field, value in there.items() if field.startswith("model.")})
    size = take({"data.size": images.size or there["data.size"]})
    _say(f"from {config.init_from}", ["the network", *([] if images.size else size)])
    _say(
        f"from {images.name}",
        [*(size if images.size else []), *take(_following(config, own, images))],
    )
    values = flatten(config)
    given = [f"{field}={values[field]}" for field in named if field.startswith(FIELDS)]
    if given:
        _say("as given", given)
    return config


def read_source(init_from: str | None) -> ConfigDict:
    """The configuration of the run, or of the converted weights, that another starts from.

    Raises:
        ConfigError: there is no such run, or its configuration is damaged.
    """
    if not init_from:
        raise ConfigError(
            "--config.init_from is missing: whose weights to start from, the directory of a run or "
            "of what alexnet_jax.convert made"
        )
    path = Path(init_from).expanduser() / "config.json"
    if not path.exists():
        raise ConfigError(
            f"--config.init_from={init_from}: there is no run, nor converted weights (no "
            "config.json in it); name the directory of one"
        )
    try:
        return files.read(path)
    except ConfigError as error:
        raise ConfigError(f"--config.init_from={init_from}: {error}") from error


def _images(data: ConfigDict, own: Collection[str]) -> Images:
    """What the configuration's images are.

    Raises:
        ConfigError: it names none.
        UserError: they are not there.
    """
    if data.cache and data.cache != "none":
        from alexnet_jax.data.cache.store import open_cache
        from alexnet_jax.files import absolute

        cache = open_cache(str(absolute(data.cache)))
        counts = {split: len(images) for split, images in cache.images.items()}
        return Images(cache.path, len(cache.class_names), counts, cache.size)
    if "data.source" not in own:
        raise ConfigError(
            "--config.data.source is missing: the images, such as folder:PATH with a folder for "
            "each class; or give --config.data.cache=DIR, what alexnet_jax.prepare made of them"
        )
    from alexnet_jax.data.sources import open_source

    found = open_source(data.source, data.dir)
    counts = {split: len(records) for split, records in found.splits.items()}
    return Images(data.source, len(found.class_names), counts, None)


def _following(config: ConfigDict, own: Collection[str], images: Images) -> Fields:
    """The fields that follow from the images."""
    counts = {split: count for split, count in images.counts.items() if count}
    held_out = config.data.holdout
    if "data.holdout" not in own and set(counts) == {"train"} and not images.size:
        held_out = float(counts["train"] // ASIDE)
    train = counts.get("train", 0)
    if held_out:
        train -= round(held_out * train) if held_out < 1 else int(held_out)
        counts["validation"] = 1
    validation = "validation" if "validation" in counts else ""
    batch_size = config.batch_size if "batch_size" in own else batch_size_for(train)
    return {
        "model.classes": images.classes,
        **({"data.holdout": held_out} if held_out else {}),
        "data.validation": validation,
        "data.test": "test" if "test" in counts else validation or "train",
        "batch_size": batch_size,
        "mesh.data": 0 if batch_size >= MOST else 1,  # too few to share, perhaps
    }


def batch_size_for(images: int) -> int:
    """How many images a step takes of so many: a power of two, and a tenth of them or fewer where
    that is enough."""
    return min(_power_of_two(images), max(FEW, min(MOST, _power_of_two(images // 10))))


def _power_of_two(number: int) -> int:
    """The largest that is no larger; at least 1."""
    return 1 << max(0, number.bit_length() - 1)


def _say(whence: str, what: list[str]) -> None:
    text = f"{whence}: {', '.join(what)}"
    print(textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False))
