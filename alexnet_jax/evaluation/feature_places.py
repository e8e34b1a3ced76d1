"""Where features are written: one file, or a folder with one for each layer."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.errors import ConfigError, UserError

FORMS = ("npy", "npz", "h5", "mat", "csv")
NEEDS = {"h5": "h5py", "mat": "scipy.io"}  # packages, '.[features]'


class Place(NamedTuple):
    """Where features are written.

    Attributes:
        form: of the files, such as 'npy'.
        features: the file of each layer.
        names: the file of the rows' names, if they are not in the others.
        facts: the file of the facts, if they are not in the others.
        signed: the file that says who wrote all, if the others do not.
    """

    form: str
    features: dict[str, Path]
    names: Path | None = None
    facts: Path | None = None
    signed: Path | None = None

    @property
    def written(self) -> list[Path]:
        """All files."""
        return [*self.features.values(), *(file for file in (self.names, self.facts) if file)]


def place(out: Path, form: str | None, layers: Sequence[str]) -> Place:
    """Where layers go: one into the file `out`, if it ends in the name of a form, else each into a
    file of its own in the folder `out`.

    Args:
        out: the file or folder.
        form: of the files; None for that of the file's name, in a folder npy.
        layers: their names.

    Raises:
        ConfigError: `out` can be no file or folder for that.
        ModuleNotFoundError: the form needs a package that is not there.
    """
    named, suffix = f"--out={out}", out.suffix.removeprefix(".")
    is_file = suffix in FORMS
    if is_file and (len(layers) > 1 or form not in (None, suffix)):
        raise ConfigError(f"{named} is for one layer in that form: give a folder and --format")
    if suffix and not (is_file or form):
        endings = ", ".join(f".{name}" for name in FORMS)
        raise ConfigError(f"{named} has to end in one of {endings}, or --format makes it a folder")
    if not is_file and out.is_file():
        raise ConfigError(f"{named} is a file: give a folder, which is made if need be")
    form = form or (suffix if is_file else "npy")
    if form in NEEDS:
        importlib.import_module(NEEDS[form])
    if not is_file:
        files = {layer: out / f"{layer.replace('/', '-')}.{form}" for layer in layers}
        return Place(form, files, out / "files.txt", out / "layers.json", out / "layers.json")
    (layer,) = layers
    facts = Path(f"{out}.json")
    match form:
        case "npy":
            return Place(form, {layer: out}, out.with_suffix(".files.txt"), facts)
        case "csv":
            return Place(form, {layer: out}, None, facts, facts)
    return Place(form, {layer: out})


def check_left_over(there: Place) -> None:
    """Refuses to write into a folder where an earlier pass over images would leave files that no
    longer belong to the names beside them.

    Raises:
        UserError: names them.
    """
    if there.facts is None or not there.facts.is_file():
        return
    folder = there.facts.parent
    earlier = {about["file"] for about in json.loads(there.facts.read_bytes()).get("layers", [])}
    kept = sorted(earlier - {path.name for path in there.features.values()})
    kept = [name for name in kept if (folder / name).exists()]
    if kept:
        raise UserError(
            f"{folder} has {', '.join(kept)} of an earlier pass over images: remove that, or give "
            "a new folder"
        )
