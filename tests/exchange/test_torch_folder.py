"""Folders for PyTorch: another process, with torch and safetensors alone, computes every stage; and
from a folder comes a run again, bit for bit.
"""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import convert_fixtures as other
import data_fixtures
import jax
import network_fixtures as fixtures
import numpy as np
import pytest
import trained_fixtures
from export_fixtures import VARIANTS, with_random_weights
from PIL import ExifTags, Image
from safetensors import numpy as safetensors

import alexnet_jax
from alexnet_jax import cli, export, settings
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.exchange import exporting, model_card, torch_folder, torch_modules
from alexnet_jax.exchange.converting import convert
from alexnet_jax.model import Conv, make_mesh

THEIRS = "torchvision's"  # features.0 ... classifier.6
CAFFES = "Caffe's graph"
PRINTED = "as printed"
NAMES = [*VARIANTS, PRINTED, CAFFES, THEIRS]
BACK = ["2012", "batch norm", "towers that never talk", "no hidden layers", PRINTED, CAFFES, THEIRS]

SECOND_PROCESS = """
import importlib.util, sys
for name in ("jax", "jaxlib", "flax", "alexnet_jax", "cv2", "ml_collections", "torchvision"):
    sys.modules[name] = None  # cannot be imported
import torch
from safetensors.torch import load_file, save_file

MEAN, STD = (torch.tensor(numbers).view(3, 1, 1) for numbers in (
    (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
for folder in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("alexnet", f"{folder}/alexnet.py")
    alexnet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alexnet)
    model = alexnet.load()
    found, hooks = {}, []
    for name, module in model.named_modules():
        def keep(module, inputs, output, name=name):
            found[name or "logits"] = output.contiguous()
        module.register_forward_hook(keep)
    pixels = load_file(f"{folder}/pixels.safetensors")["pixels"]  # (N, C, C, 3) uint8
    images = (pixels.permute(0, 3, 1, 2) / 255 - MEAN) / STD
    with torch.no_grad():
        model(images)
    save_file({name: value.clone() for name, value in found.items()}, f"{folder}/found.safetensors")
"""


class Folder:
    """An exported network, and what it computed in the second process."""

    def __init__(self, path: Path, trained: TrainedNetwork, workdir: Path | None = None) -> None:
        self.path, self.trained, self.workdir = path, trained, workdir
        self.network = trained.viewer.model.network
        torch_folder.write(trained, path)
        pictures = trained_fixtures.pictures(3, trained.size)
        self.pixels = exporting.central(pictures, trained.viewer.crop)
        other.saved({"pixels": np.ascontiguousarray(self.pixels)}, path / "pixels.safetensors")

    def expected(self) -> dict[str, np.ndarray]:
        """Every stage of the network itself, (N, ...), in PyTorch's layout."""
        mean = exporting.central(
            np.asarray(self.trained.viewer.mean_image)[None], len(self.pixels[0])
        )
        model = self.trained.viewer.model

        def look(variables: Any, images: Any) -> Any:
            return model.apply(variables, images, intermediates=True)

        _, stages = jax.jit(look)(self.trained.variables, np.float32(self.pixels) - mean)
        return {n: np.moveaxis(s, -1, 1) if s.ndim == 4 else s for n, s in stages.items()}

    def found(self) -> dict[str, np.ndarray]:
        """Every module's output in PyTorch."""
        return safetensors.load_file(self.path / "found.safetensors")


@pytest.fixture(scope="module")
def folders(reference: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folder]:
    """All of them, computed by one process."""
    root = tmp_path_factory.mktemp("folders")
    found = {}
    for number, name in enumerate(NAMES):
        if name in (THEIRS, CAFFES):
            made = root / f"converted {number}"
            if name == THEIRS:
                file = other.saved(other.torchvision_arrays(), root / "alexnet.safetensors")
            else:
                file = other.bvlc_like().save(root / "small.onnx")
            convert(file, made)
            trained = alexnet_jax.load(made, mesh=make_mesh(1, 1))
        elif name == PRINTED:
            made, printed = None, fixtures.small_network(lrn_alpha=1e-4)
            size = trained_fixtures.SIZE
            trained = with_random_weights(printed, size, "data.mean=aligned")
        else:
            made, trained = None, with_random_weights(fixtures.small_network(**VARIANTS[name]))
        found[name] = Folder(root / str(number), trained, made)
    line = [sys.executable, "-c", SECOND_PROCESS, *(str(folder.path) for folder in found.values())]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_is_the_networks(folders: dict[str, Folder], name: str) -> None:
    """Of every form of a layer, under the name that the card lists."""
    folder = folders[name]
    expected, found = folder.expected(), folder.found()
    card = (folder.path / "README.md").read_text()
    places = torch_modules.places(folder.network)
    silent = {stage for stage in expected if stage.endswith("/norm") and stage not in places}
    assert expected.keys() - places.keys() == (silent if folder.network.norm == "none" else set())
    for stage, place in places.items():
        values = expected[stage].reshape(found[place].shape)  # torchvision drops of flattened maps
        assert fixtures.difference(found[place], values) < 1e-5, (stage, place)
        assert f"`{place}`" in card
    named = re.search(r'layers=\["(.+)"\]', card)  # in the lines for Brain-Score
    assert named is not None and named[1] in places.values()
    logits = expected["fc8"]
    assert fixtures.difference(found["logits"], logits) < 1e-5
    apart = np.abs(logits[0] - logits[1]).max() / np.abs(logits).max()
    assert apart > 0.001, "nothing compared"


@pytest.mark.parametrize("name", BACK)
def test_back_bit_for_bit(folders: dict[str, Folder], name: str, tmp_path: Path) -> None:
    """From the folder, or from the file in it: parameters, averages, network, pixels, names."""
    folder = folders[name]
    made = convert(
        folder.path if name == THEIRS else folder.path / "model.safetensors", tmp_path / "w"
    )
    back, before = alexnet_jax.load(tmp_path / "w", mesh=make_mesh(1, 1)), folder.trained
    assert back.viewer.model.network == before.viewer.model.network
    assert back.class_names == before.class_names
    for ours, theirs in (
        (back.variables, before.variables),
        (back.viewer.mean_image, before.viewer.mean_image),
    ):
        same = jax.tree.map(
            lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), ours, theirs
        )
        assert jax.tree.all(same), same
    assert back.viewer.aligned == before.viewer.aligned
    count = sum(array.size for array in jax.tree.leaves(before.variables["params"]))
    assert (
        made["parameters"] == count
        and f"{count:,} parameters" in (folder.path / "README.md").read_text()
    )


# --- names ----------------------------------------------------------------------------------------


def module_of(folder: Path) -> Any:
    """alexnet.py of a folder."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("exported", folder / "alexnet.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torchvisions_names_and_its_own_class(
    folders: dict[str, Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state dict of torchvision's network is its own but for the pixels, and becomes it."""
    folder = folders[THEIRS]
    arrays = safetensors.load_file(folder.path / "model.safetensors")
    theirs = other.torchvision_arrays()
    assert arrays.keys() - theirs.keys() == {"mean_image"}
    assert {n: a.shape for n, a in theirs.items()} == {n: arrays[n].shape for n in theirs}
    card = (folder.path / "README.md").read_text()
    block = next(b for b in card.split("```")[1::2] if "STD" in b).removeprefix("python\n")
    made: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "alexnet", module_of(folder.path))
    exec(block, made)  # what the card says
    again = {name: value.numpy() for name, value in made["weights"].items()}
    assert again.keys() == theirs.keys() and fixtures.difference(again, theirs) < 1e-6
    inputs = other.seen_by_torchvision(trained_fixtures.pictures(3, 256))
    logits = other.run_torch(other.torchvision_alexnet(theirs), inputs)
    assert fixtures.difference(folder.found()["logits"], logits) < 1e-4
    mean = np.array(folder.trained.viewer.mean_image)
    mean[0, 0, 0] += 1  # an image, which torchvision's class cannot subtract
    assert not model_card.torchvisions(folder.network, mean)


def test_caffes_names(folders: dict[str, Folder]) -> None:
    """A layer of 2012 has the name that Caffe's AlexNet gives it."""
    arrays = safetensors.load_file(folders["2012"].path / "model.safetensors")
    layers = [*(f"conv{number}" for number in range(1, 6)), "fc6", "fc7", "fc8"]
    kinds = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert arrays.keys() == kinds | {"mean_image"}
    assert arrays["conv2.weight"].shape == (16, 4, 5, 5), "two groups"
    names = torch_modules.places(folders["2012"].network).values()
    assert {"relu1", "norm1", "pool1", "pool5", "relu7", "drop7"} <= set(names)
    assert len((folders["2012"].path / "alexnet.py").read_text().splitlines()) < 75


@pytest.mark.parametrize(("name", "last"), [("source", "fc8"), (THEIRS, "classifier.6")])
def test_the_last_module_is_the_last_layer(
    folders: dict[str, Folder], name: str, last: str
) -> None:
    """Brain-Score takes it for the logits, and asks for layers by their way through `_modules`."""
    model = module_of(folders[name].path).AlexNet()
    module = model
    while module._modules:
        module = module._modules[next(reversed(module._modules))]
    assert module is model.get_submodule(last) and dict(model.named_modules())[last] is module


# --- in PyTorch -----------------------------------------------------------------------------------


def test_preprocess(folders: dict[str, Folder]) -> None:
    """A photo is what `predict` sees of it, within half a grey level where Pillow scales it."""
    folder = folders[THEIRS]
    preprocess = module_of(folder.path).preprocess
    for height, width, levels in (
        (256, 256, 1e-3),
        (256, 311, 1e-3),
        (700, 501, 0.5),
        (120, 151, 0.5),
    ):
        photo = data_fixtures.photo(0, height, width)
        expected = other.seen_by_torchvision(folder.trained.pictures(photo))[0]
        found = preprocess(Image.fromarray(photo)).numpy()
        assert found.shape == (3, 224, 224)
        assert np.abs(found - expected).mean() < levels / 255 / 0.225


def test_preprocess_of_files_that_lie_on_their_side_or_are_seen_through(
    folders: dict[str, Folder], tmp_path: Path
) -> None:
    """As the network itself sees them: a phone's photo is turned upright, what is transparent lies
    over white, and of 16 bits the upper eight are kept."""
    folder = folders[THEIRS]
    preprocess = module_of(folder.path).preprocess
    pixels = data_fixtures.photo(0, 256, 300)
    colours = Image.fromarray(pixels)
    faint = colours.copy()
    faint.putalpha(Image.linear_gradient("L").resize(colours.size))
    few = colours.quantize(16)
    grey = pixels[..., 0].astype(np.uint16) * 256 + 77
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name, image, options in (
        ("turned.png", colours, {"exif": exif}),
        ("faint.png", faint, {}),
        ("grey-and-faint.png", faint.convert("LA"), {}),
        ("few.png", few, {"transparency": 3}),
        ("deep.png", Image.fromarray(grey), {}),
    ):
        path = tmp_path / name
        image.save(path, **options)
        expected = other.seen_by_torchvision(folder.trained.pictures(path))[0]
        with Image.open(path) as opened:
            found = preprocess(opened).numpy()
        assert np.abs(found - expected).max() < 1.01 / 255 / 0.224, name
        assert np.abs(found - expected).mean() < 0.1 / 255 / 0.224, name


def test_dropout_is_that_of_2012(folders: dict[str, Folder]) -> None:
    """In training units are gone or as they were; at test all are scaled."""
    import torch

    dropout = module_of(folders["2012"].path).AlexNet().drop6
    x = torch.linspace(1, 2, 4000)
    assert torch.equal(dropout.eval()(x), x * 0.5)
    found = dropout.train()(x)
    kept = found == x
    assert torch.equal(found, torch.where(kept, x, 0)) and 0.4 < kept.float().mean() < 0.6


def test_trained_on_in_torch(folders: dict[str, Folder], tmp_path: Path) -> None:
    """What is saved in the weights' place is what comes back, in half precision as well."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "folder"
    shutil.copytree(folders["batch norm"].path, folder)
    model = module_of(folder).load()
    with torch.no_grad():
        model.conv3.bias += 1
    expected = jax.device_get(folders["batch norm"].trained.variables)
    expected["params"]["conv3"]["bias"] = expected["params"]["conv3"]["bias"] + 1
    torch.save({"state_dict": torch.nn.DataParallel(model).state_dict()}, folder / "tuned.pth")
    save_file(model.half().state_dict(), folder / "model.safetensors")
    for number, (file, rounding) in enumerate({"": 1e-3, "tuned.pth": 1e-7}.items()):
        made = convert(folder / file, tmp_path / f"w{number}")
        assert made["origin"].endswith("Another program has changed them since.")
        back = alexnet_jax.load(tmp_path / f"w{number}", mesh=make_mesh(1, 1)).variables
        assert fixtures.difference(back, expected) < rounding
    # It no longer says who made it, and is not replaced.
    with pytest.raises(UserError, match=r"model\.safetensors is there already and was not written"):
        cli.check_output("out", folder / "model.safetensors", True)


# --- what it says ---------------------------------------------------------------------------------


def test_the_card_of_a_run(tmp_path: Path) -> None:
    """What was measured at this step, and where it is from, but no folder of its author's."""
    names = ["왕의 깃발", "a_b*c [d]", "\udcff", "n01440764"]
    names += [f"class {number}" for number in range(4, 30)]
    network = fixtures.small_network(classes=30)
    fields = "data.source=folder:/home/me/secret/flags", "data.test=validation"
    trained_fixtures.save_network(tmp_path / "w", network, 0, *fields, classes=names)
    rows = [
        {"step": 2, "split": "validation", "views": 1, "examples": 9, "top1_error": 0.9},
        {"step": 3, "split": "train", "views": 1, "examples": 9, "top1_error": 0.8},
        {"step": 3, "split": "test", "views": 1, "examples": 2000, "top1_error": 0.0135},
        {"step": 3, "split": "test", "views": 10, "examples": 2000, "top1_error": 0.0125},
    ]
    lines = "".join(json.dumps({**row, "top5_error": 0.0005}) + "\n" for row in rows)
    (tmp_path / "w/metrics.jsonl").write_text(lines)
    out = tmp_path / "out"
    assert export.main([f"--workdir={tmp_path}/w", "--format=torch", f"--out={out}"]) == 0
    card = (out / "README.md").read_text()
    assert "| 2,000 of `validation` | 10 | 1.25% | 0.05% |" in card and "1.35%" in card
    assert "90.00%" not in card and "80.00%" not in card
    assert "on `folder:flags`: 3 steps of" in card and "secret" not in card
    assert "- 0: 왕의 깃발\n- 1: a\\_b\\*c \\[d\\]\n" in card and "- 3: tench" in card
    assert "- 29: class 29" in card and "class 15" not in card and "all 30" in card
    assert max(len(line) for line in card.splitlines()) <= 100
    about = json.loads((out / "config.json").read_bytes())
    assert about["class_names"] == names and about["step"] == 3
    assert sorted(path.name for path in out.iterdir()) == sorted(torch_folder.FILES)
    convert(out, tmp_path / "back")
    assert alexnet_jax.load(tmp_path / "back").class_names == names
    # What was a run stays one in the card of its copy.
    again = tmp_path / "again"
    export.main([f"--workdir={tmp_path}/back", "--format=torch", f"--out={again}"])
    assert "on `folder:flags`: 3 steps of" in (again / "README.md").read_text()


def test_the_card_of_converted_weights(folders: dict[str, Folder]) -> None:
    """Whose training is not known, nor their error."""
    card = (folders[THEIRS].path / "README.md").read_text()
    assert "read from `alexnet.safetensors`, safetensors state dict, sha256" in card
    assert "Its error is not known here" in card and "Not stated." in card


# --- what is refused ------------------------------------------------------------------------------


def test_a_local_layer_is_refused(tmp_path: Path) -> None:
    """By the field, with the format that has it, and nothing is left."""
    local = Conv(24, 3, 1, (1, 1), communicates=True, std=0.05, local=True)
    trained = with_random_weights(fixtures.small_network(conv3=local))
    with pytest.raises(UserError, match=r"model\.conv3\.local.*--format=stablehlo"):
        torch_folder.write(trained, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_only_its_own_files_are_replaced(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of others' files, too, which stay."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    flags = [f"--workdir={workdir}", "--format=torch", f"--out={out}"]
    for name in torch_folder.FILES:
        for overwrite, reason in (([], "give --overwrite"), (["--overwrite"], "was not written")):
            (out / name).write_text("mine")
            with pytest.raises(SystemExit):
                export.main([*flags, *overwrite])
            line = capsys.readouterr().err
            assert f"{out / name} is there already" in line and reason in line
        (out / name).unlink()
    assert export.main(flags) == 0
    before = {name: (out / name).stat().st_mtime_ns for name in torch_folder.FILES}
    assert export.main([*flags, "--overwrite"]) == 0
    assert all((out / name).stat().st_mtime_ns > time for name, time in before.items())
    assert sorted(p.name for p in out.iterdir()) == sorted([*torch_folder.FILES, "notes.txt"])
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"notes\.txt is a file: torch makes a folder"):
        exporting.export(workdir, out / "notes.txt", "torch")
    with pytest.raises(settings.ConfigError, match="--precision=float16 is for --format=onnx"):
        exporting.export(workdir, out, "torch", precision="float16")


def test_all_or_nothing(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves no folder, and of an older one everything."""
    trained = alexnet_jax.load(workdir, mesh=make_mesh(1, 1))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    torch_folder.write(trained, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(torch_folder, "whole", full)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(OSError, match="No space"):
            torch_folder.write(trained, folder)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about, arrays: about.pop("network"), "config.json beside it that is damaged"),
        (lambda about, arrays: about["class_names"].pop(), "11 names for 12 classes"),
        (lambda about, arrays: about["network"].update(towers=3), "towers=3"),
        (lambda about, arrays: about["network"].update(towers="2"), "damaged"),
        (lambda about, arrays: about["pixels"].update(resize=90), "expected (3, 90, 90)"),
        (lambda about, arrays: arrays.pop("mean_image"), "expected (3, 110, 110)"),
        (lambda about, arrays: arrays.pop("conv3.bias"), "has no tensor conv3.bias"),
        (
            lambda about, arrays: arrays.update({"conv3.bias": np.ones(5, np.float32)}),
            "conv3.bias has shape (5,), expected (24,)",
        ),
        (
            lambda about, arrays: arrays.update({"fc6.weight": arrays["fc6.weight"].T.copy()}),
            "fc6.weight has shape (64, 32), expected (32, 64)",
        ),
        (
            lambda about, arrays: arrays.update({"fc9.weight": np.ones(5, np.float32)}),
            "has a tensor fc9.weight, which the network in its config.json has not",
        ),
        (
            lambda about, arrays: arrays["conv1.bias"].__setitem__(0, np.nan),
            "conv1.bias holds 1 numbers that are not finite",
        ),
    ],
)
def test_damaged_folders(
    folders: dict[str, Folder], tmp_path: Path, change: Any, message: str
) -> None:
    """The tensor or the field is named, and no run is made."""
    about, arrays = _both(folders["2012"].path)
    change(about, arrays)
    (tmp_path / "config.json").write_text(json.dumps(about))
    other.saved(arrays, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as info:
        convert(tmp_path, tmp_path / "w")
    assert message in str(info.value) and "model.safetensors" in str(info.value)
    assert not (tmp_path / "w").exists()


@cache
def _read(path: Path) -> tuple[str, bytes]:
    return (path / "config.json").read_text(), (path / "model.safetensors").read_bytes()


def _both(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    text, content = _read(path)
    return json.loads(text), {n: a.copy() for n, a in safetensors.load(content).items()}


def test_other_folders(folders: dict[str, Folder], tmp_path: Path) -> None:
    """Pixels are not to be given twice; without its config.json a folder's file is no more read."""
    with pytest.raises(UserError, match="exported with its own pixels: leave out --pixels"):
        convert(folders["2012"].path, tmp_path / "w", pixels="caffe")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path, tmp_path / "w")
    shutil.copy(folders["2012"].path / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "another program\'s"}')
    with pytest.raises(UserError, match=r"was exported by alexnet_jax.*config\.json"):
        convert(tmp_path, tmp_path / "w")
