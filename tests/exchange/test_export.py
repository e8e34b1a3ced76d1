"""Exported networks: other programs compute the same, from files that need no package.

The witnesses are onnxruntime, onnx's own evaluator, and a process in which there is no alexnet_jax.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import onnx
import onnxruntime
import pytest
import trained_fixtures
from export_fixtures import VARIANTS, with_random_weights
from jax import export as jax_export
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from scipy.special import softmax

import alexnet_jax
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import scores
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.exchange import exporting
from alexnet_jax.model import Conv, Network
from experiments.export.measure import errors

SIZE, CROP = trained_fixtures.SIZE, 96
PICTURES = trained_fixtures.pictures(3)
PIXELS = exporting.central(PICTURES, CROP)


def by_onnxruntime(model: onnx.ModelProto, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What onnxruntime computes."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_is_the_network(name: str) -> None:
    """onnxruntime's logits are the network's, for every form of a layer and any batch; nearly so in
    half precision."""
    trained = with_random_weights(fixtures.small_network(**VARIANTS[name]))
    model = exporting.to_onnx(trained)
    found = by_onnxruntime(model, PIXELS)
    expected = trained.logits(PICTURES)
    assert fixtures.difference(found["logits"], expected) < 1e-5
    assert fixtures.difference(found["probabilities"], softmax(expected, axis=-1)) < 1e-5
    first = by_onnxruntime(model, PIXELS[:1])["logits"]
    assert fixtures.difference(first, expected[:1]) < 1e-5
    narrow = by_onnxruntime(exporting.to_onnx(trained, "float16"), PIXELS)["logits"]
    assert fixtures.difference(narrow, expected) < 1e-2


def test_a_local_layer_is_refused() -> None:
    """By the field, with the format that has it."""
    local = Conv(24, 3, 1, (1, 1), communicates=True, std=0.05, local=True)
    trained = with_random_weights(fixtures.small_network(conv3=local))
    with pytest.raises(UserError, match=r"model\.conv3\.local.*--format=stablehlo"):
        exporting.to_onnx(trained)


def test_the_network_of_2012() -> None:
    """At full size, with a 256 x 256 mean image."""
    trained = with_random_weights(Network(), 256)
    pictures = trained_fixtures.pictures(1, 256)
    found = by_onnxruntime(exporting.to_onnx(trained), exporting.central(pictures, 224))
    assert found["logits"].shape == (1, 1000)
    assert fixtures.difference(found["logits"], trained.logits(pictures)) < 1e-4


def loud(**changes: Any) -> TrainedNetwork:
    """A network whose conv1 says more than half precision can square."""
    trained = with_random_weights(fixtures.small_network(**changes))
    trained.variables["params"]["conv1"]["kernel"] *= 3
    loudest = np.float16(trained.features(PICTURES, "conv1").max())
    with np.errstate(over="ignore"):
        assert loudest > 256 and np.isinf(loudest * loudest)
    return trained


def test_half_precision_squares_in_float32() -> None:
    """LRN's inputs are float32, the weights are not, and the answer is right."""
    trained = loud()
    model = exporting.to_onnx(trained, "float16")
    nodes = {output: node for node in model.graph.node for output in node.output}
    squares = [node for node in model.graph.node if node.name.endswith("norm/squares")]
    assert len(squares) == 2
    for node in squares:
        cast = nodes[node.input[0]]
        assert cast.op_type == "Cast" and cast.attribute[0].i == TensorProto.FLOAT
    wide = [a for a in model.graph.initializer if a.name.endswith(("norm/band", "norm/k"))]
    assert [array.data_type for array in wide] == [TensorProto.FLOAT] * 4
    kernels = [a for a in model.graph.initializer if a.name.endswith("kernel")]
    assert len(kernels) == 8
    assert {array.data_type for array in kernels} == {TensorProto.FLOAT16}
    found = by_onnxruntime(model, PIXELS)
    assert found["logits"].dtype == np.float32
    assert fixtures.difference(found["logits"], trained.logits(PICTURES)) < 5e-3


def test_half_precision_where_nothing_is_widened() -> None:
    """onnx's evaluator, which computes float16 in float16, gets the answer too; and not where the
    norm is in half precision like the rest."""
    after = "activation within_map_norm pool"
    conv1 = Conv(8, 11, 4, (0, 3), std=0.05, after=after)
    gone = {name: Conv(0, 3) for name in ("conv2", "conv3", "conv4", "conv5")}
    trained = loud(conv1=conv1, **gone)
    expected = trained.logits(PICTURES[:1])

    model = exporting.to_onnx(trained, "float16")
    (found, _) = ReferenceEvaluator(model).run(None, {"pixels": PIXELS[:1]})
    assert fixtures.difference(found, expected) < 5e-3

    for constant in model.graph.initializer:
        narrow = np.float16(numpy_helper.to_array(constant))
        constant.CopyFrom(numpy_helper.from_array(narrow, constant.name))
    for node in model.graph.node:
        if node.op_type == "Cast" and node.name != "logits":
            node.attribute[0].i = TensorProto.FLOAT16
    del model.graph.value_info[:]
    with np.errstate(over="ignore"):
        (found, _) = ReferenceEvaluator(model).run(None, {"pixels": PIXELS[:1]})
    assert fixtures.difference(found, expected) > 0.02


def test_int8(network: TrainedNetwork) -> None:
    """Every convolution and fully connected layer has 8-bit weights and inputs, and the answers to
    other images than it was calibrated with are nearly those of float32."""
    others = exporting.central(trained_fixtures.pictures(40, seed=1), CROP)
    model = exporting.to_onnx(network, "int8", others)
    nodes = {output: node for node in model.graph.node for output in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    sums = [layer for layer in layers if layer.name.endswith("norm/sums")]
    assert len(sums) == 2 and "DequantizeLinear" not in {nodes[s.input[0]].op_type for s in sums}
    layers = [layer for layer in layers if layer not in sums]
    assert len(layers) == 8
    arrays = {array.name: array for array in model.graph.initializer}
    for layer in layers:
        values, weights = (nodes[name] for name in layer.input[:2])
        assert values.op_type == weights.op_type == "DequantizeLinear"
        stored, scales = (numpy_helper.to_array(arrays[name]) for name in weights.input[:2])
        assert stored.dtype == np.int8
        assert scales.shape == (stored.shape[0 if layer.op_type == "Conv" else 1],)
    found = by_onnxruntime(model, PIXELS)["logits"]
    assert fixtures.difference(found, network.logits(PICTURES)) < 0.1


SECOND_PROCESS = """
import sys
sys.modules["alexnet_jax"] = sys.modules["flax"] = None
import jax, numpy as np
from jax import export
path, pixels, out = sys.argv[1:]
network = export.deserialize(bytearray(open(path, "rb").read()))
pixels = np.load(pixels)
found = jax.jit(network.call)(pixels)
one = network.call(pixels[:1])
np.savez(out, one=one["logits"], **found)
"""


def test_stablehlo_in_a_process_without_this_package(
    network: TrainedNetwork, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """jax alone runs the file, for any number of images."""
    out = tmp_path / "network.stablehlo"
    exporting.export(workdir, out, "stablehlo")
    printed = capsys.readouterr().out
    assert f"{out}: stablehlo, float32, 0." in printed and "step 3" in printed
    np.save(tmp_path / "pixels.npy", PIXELS)
    arguments = [out, tmp_path / "pixels.npy", tmp_path / "found.npz"]
    done = subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)
    expected = network.logits(PICTURES)
    assert fixtures.difference(found["logits"], expected) < 1e-5
    assert fixtures.difference(found["probabilities"], softmax(expected, axis=-1)) < 1e-5
    assert fixtures.difference(found["one"], expected[:1]) < 1e-5
    about = json.loads(Path(f"{out}.json").read_text())
    assert about == exporting.description(network)
    assert about["classes"] == trained_fixtures.CLASSES
    assert (about["resize"], about["crop"], about["step"]) == (SIZE, CROP, 3)


def test_stablehlo_is_for_all_platforms() -> None:
    """For each platform the plain convolutions, conv1 to conv5, and no form that is for a CPU, also
    where one would be taken there."""
    trained = with_random_weights(fixtures.small_network(conv2=Conv(256, 5, 1, (2, 2))))
    exported = jax_export.deserialize(bytearray(exporting.to_stablehlo(trained)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.nr_devices == 1
    program = exported.mlir_module()
    assert program.count("stablehlo.convolution(") == 3 * (1 + 2 + 1 + 2 + 2)
    assert "stablehlo.while" not in program


def test_onnx_says_what_it_wants(network: TrainedNetwork, workdir: Path, tmp_path: Path) -> None:
    """The file's metadata is what stands beside a StableHLO file; int8 finds the run's images."""
    out = tmp_path / "network.onnx"
    exporting.export(workdir, out, "onnx", precision="int8")
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    about = exporting.description(network, "int8")
    assert texts["preprocessing"] == about["preprocessing"]
    assert f"central {SIZE}x{SIZE}" in texts["preprocessing"]
    assert json.loads(texts["classes"]) == trained_fixtures.CLASSES
    assert {json.loads(texts["resize"]), json.loads(texts["crop"])} == {SIZE, CROP}
    assert by_onnxruntime(model, PIXELS)["logits"].shape == (3, 12)
    assert exporting.calibration_pixels(network).shape == (12, CROP, CROP, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.onnx"]


def test_nothing_is_overwritten(workdir: Path, tmp_path: Path) -> None:
    """A file that is there is named, and stays."""
    out = tmp_path / "there.onnx"
    out.write_text("mine")
    with pytest.raises(UserError, match=r"there.onnx is there already"):
        exporting.export(workdir, out, "onnx")
    assert out.read_text() == "mine"
    described = tmp_path / "x.stablehlo.json"  # is written as well
    described.write_text("mine")
    with pytest.raises(UserError, match=r"x.stablehlo.json is there already"):
        exporting.export(workdir, tmp_path / "x.stablehlo", "stablehlo")
    assert described.read_text() == "mine"
    with pytest.raises(UserError, match="there is no directory"):
        exporting.export(workdir, tmp_path / "nowhere" / "x.onnx", "onnx")


def test_no_such_precision(network: TrainedNetwork) -> None:
    """Nor 8 bits without images to calibrate with."""
    for precision in ("float64", "int8"):
        with pytest.raises(ValueError, match="one of float32, float16, int8; int8 needs pixels"):
            exporting.to_onnx(network, precision)


def test_no_run(tmp_path: Path) -> None:
    """A directory without a run is named, and nothing is written."""
    with pytest.raises(UserError, match="holds no run"):
        exporting.export(tmp_path / "nowhere", tmp_path / "x.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "precision", "package"),
    [
        ("onnx", "float32", "onnx"),
        ("onnx", "int8", "onnxruntime"),
        ("stablehlo", "float32", "flatbuffers"),
        ("torch", "float32", "safetensors"),
    ],
)
def test_a_missing_package(
    workdir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    precision: str,
    package: str,
) -> None:
    """The command that installs it is named."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UserError, match=rf"needs the package {package}: pip install -e '\.\[export"
    ):
        exporting.export(workdir, tmp_path / "x", form, precision=precision)


def test_only_int8_needs_onnxruntime(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    exporting.export(workdir, tmp_path / "x.onnx", "onnx", precision="float16")
    assert (tmp_path / "x.onnx").exists()


def test_the_best_checkpoint(tmp_path: Path) -> None:
    """The command exports it if told to, and not the last."""
    workdir, out = tmp_path / "run", tmp_path / "network.stablehlo"
    params = trained_fixtures.save_network(workdir)
    trained_fixtures.save_best_and_last(workdir, params, 5, 8)
    command = [sys.executable, "-m", "alexnet_jax.export", f"--workdir={workdir}", "--best"]
    command += [f"--out={out}", "--format=stablehlo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(Path(f"{out}.json").read_text())["step"] == 5
    found = jax_export.deserialize(bytearray(out.read_bytes())).call(PIXELS)
    expected = alexnet_jax.load(workdir, best=True).logits(PICTURES)
    assert fixtures.difference(found["logits"], expected) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format=stablehlo", "--precision=int8"], "--precision=int8 is for --format=onnx"),
        (["--format=tflite"], "argument --format: invalid choice: 'tflite'"),
        (["--format=onnx", "--precision=int4"], "argument --precision: invalid choice: 'int4'"),
        ([], "--format is missing: one of stablehlo, onnx"),
        (["--format=onnx", "a.jpg"], "images to calibrate with are for --precision=int8"),
        (["--format=onnx", "--out=no/x.onnx"], "there is no folder no"),
    ],
)
def test_a_bad_command(tmp_path: Path, arguments: list[str], words: str) -> None:
    """One line, exit code 2."""
    command = [sys.executable, "-m", "alexnet_jax.export", "--workdir=w", "--out=x", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line


def test_the_benchmark_counts_errors_as_evaluation_does() -> None:
    """Ties among them."""
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 6, (200, 12)).astype(np.float32)
    labels = fixtures.random_labels(200, 12)
    expected = scores.sums(jax.nn.softmax(jnp.asarray(logits)), labels, np.ones(200))
    found = errors(logits, labels)
    assert found["top1_error"] == pytest.approx(float(expected["top1"]) / 200)
    assert found["top5_error"] == pytest.approx(float(expected["top5"]) / 200)
    assert found["loss"] == pytest.approx(float(expected["loss"]) / 200, rel=1e-5)
