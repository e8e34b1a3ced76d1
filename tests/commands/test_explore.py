"""The page of `alexnet_jax.explore`, in a real browser where there is one."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asked_fixtures
import data_fixtures
import numpy as np
import pytest
import trained_fixtures
from asked_fixtures import CLASSES, network, squares
from PIL import Image

import alexnet_jax
from alexnet_jax import explore
from alexnet_jax.data.dataset import ensure_cache, is_at_hand
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.album import album
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.pictures import browser

NAMES = ("왕의 깃발", "b & c", *CLASSES[2:])
# Notes, in a process, whom it calls.
WATCHING = """
import socket
import sys

def heard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open({calls!r}, "a") as file:
            print(event, *arguments[-1:] if event == "socket.connect" else arguments, file=file)

sys.addaudithook(heard)
socket.getaddrinfo("127.0.0.1", 1)
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights whose dataset is prepared: a folder of twelve classes."""
    root = tmp_path_factory.mktemp("explore")
    data_fixtures.write_folder(root / "images", {"train": 1, "test": 3}, NAMES)
    source = f"folder:{root}/images"
    cache = ensure_cache(source, trained_fixtures.SIZE, str(root / "data"))
    fields = (f"data.source={source}", f"data.dir={root}/data", "data.test=test")
    names = list(cache.class_names)
    trained_fixtures.save_network(root / "run", None, 0, *fields, classes=names)
    return root / "run"


@pytest.fixture(scope="module")
def asked(run: Path) -> TrainedNetwork:
    """That network."""
    return alexnet_jax.load(run)


# --- the dataset ----------------------------------------------------------------------------------


def test_the_nearest_are_those_of_float64(asked: TrainedNetwork) -> None:
    """By fc7, over all images of the split; an image of the split is nearest to itself."""
    found = album(asked)
    assert found is not None and found.layer == "fc7" and len(found.numbers) == 36
    pictures = np.stack([found.picture(number) for number in range(36)])
    features = np.float64(asked.features(pictures))
    nearest = found.nearest(pictures[17])
    distances = np.sqrt(((features - features[17]) ** 2).sum(-1))
    order = np.argsort(distances, kind="stable")[:6]
    np.testing.assert_allclose([one.distance for one in nearest], distances[order], atol=1e-3)
    np.testing.assert_array_equal(nearest[0].picture, pictures[17])
    assert nearest[0].name == sorted(NAMES)[17 // 3]
    assert len(set(found.some(12))) == 12 and found.some(100) == list(range(36))


def test_a_dataset_that_is_not_at_hand(
    explorer: browser.Explorer,
    asked: TrainedNetwork,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """It is said, nothing is prepared, and the page does without."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert album(network()) is None
    browser.Explorer({"a": network()})
    assert "no neighbours for a: its dataset is not at hand" in capsys.readouterr().out
    assert explorer.picks("without") == [] and len(explorer.picks("with")) == 12
    assert not list(tmp_path.iterdir())
    assert not is_at_hand("embedded", 128, str(tmp_path))
    assert not is_at_hand("embedded", 128, str(tmp_path), path="none")
    data = asked.config.data
    assert is_at_hand(data.source, data.size, data.dir)
    assert not is_at_hand(data.source, data.size + 1, data.dir)


# --- what is asked --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explorer(asked: TrainedNetwork) -> browser.Explorer:
    """A network with its dataset, and the same one without."""
    made = browser.Explorer({"with": asked, "without": asked})
    made.albums["without"] = None
    return made


def test_photos_and_images_of_the_dataset(
    explorer: browser.Explorer, asked: TrainedNetwork, tmp_path: Path
) -> None:
    """Each with the answer of the network that is asked."""
    photo = tmp_path / "photo.png"
    Image.fromarray(squares(1)[0]).save(photo)
    answer = sorted(NAMES)[int(asked.predict(photo)[0].argmax())]
    for name, near in (("with", True), ("without", False)):
        html = explorer.look(str(photo), name)
        first = html[html.index('class="bar asked"') :]
        assert f'title="{answer.replace("&", "&amp;")}"' in first[:200]
        assert ("36 images of the split test, by fc7" in html) is near
    assert "image 10 of the split test" in explorer.look(explorer.picks("with")[3], "with")


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 cut short"])
def test_a_bad_photo_is_one_line(
    content: bytes, explorer: browser.Explorer, tmp_path: Path
) -> None:
    """With its name, not with where it was put."""
    photo = tmp_path / "<my> photo.jpg"
    photo.write_bytes(content)
    html = explorer.look(str(photo), "with")
    assert html.startswith('<div class="alexnet"><p class="error">&lt;my&gt; photo.jpg: ')
    assert str(tmp_path) not in html and "\n" not in html


# --- the command ----------------------------------------------------------------------------------


def test_a_port_in_use_is_said(explorer: browser.Explorer) -> None:
    """Before anything is served, with a way out."""
    pytest.importorskip("gradio")
    with socket.create_server((browser.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        said = f"--port={port}: Address already in use; give another, or --port=0"
        with pytest.raises(UserError, match=said), browser.served(explorer, port):
            pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir="], "--workdir has an empty name"),
        (["--workdir=W,W"], "twice"),
        (["--workdir=W", "--port=x"], "'x': expected a whole number from 0 on"),
        (["--workdir=W", "--port=70000"], "--port=70000: ports go up to 65535"),
        (["--workdir=W", "--share"], "unknown flag --share"),
    ],
)
def test_a_wrong_command(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        explore.parse_flags(arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.fixture(scope="module")
def serving(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The command as a process: its address, and where its temporary files lie."""
    pytest.importorskip("gradio")
    other = asked_fixtures.write_run(tmp_path_factory.mktemp("other") / "small")
    temporary, watching = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("watching")
    (watching / "sitecustomize.py").write_text(WATCHING.format(calls=str(watching / "calls.txt")))
    line = [sys.executable, "-m", "alexnet_jax.explore", f"--workdir={run},{other}", "--port=0"]
    paths = os.pathsep.join([str(watching), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": paths,
    }
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = ""
        for said in process.stdout:
            if said.startswith("http://127.0.0.1:"):
                break
        address = said.split()[0]
        calls = watching / "calls.txt"
        yield {"process": process, "address": address, "temporary": temporary, "calls": calls}
        process.kill()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None, reason="no playwright: pip install playwright"
)
def test_in_a_browser(serving: dict[str, Any], tmp_path: Path) -> None:
    """Drop a photo, pick another, drop what is none, switch the network, on a desktop and on a
    telephone; the browser asks for nothing from elsewhere."""
    from playwright.sync_api import expect, sync_playwright

    address = serving["address"]
    photo, bad = tmp_path / "photo.png", tmp_path / "bad.png"
    Image.fromarray(data_fixtures.photo(5, 300, 400)).save(photo)
    bad.write_text("no image")
    asked, said = [], []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM)
        for width in (1280, 390):
            view = chromium.new_page(viewport={"width": width, "height": 900})
            view.on("request", lambda request: asked.append(request.url))
            view.on("console", lambda message: said.append(message.text))
            view.goto(address)
            answer, file = view.locator("#answer"), view.locator("input[type=file]")
            expect(answer.get_by_text("Drop a photo, or pick one.")).to_be_visible(timeout=60_000)
            file.set_input_files(photo)
            expect(answer.get_by_role("heading", name="photo.png")).to_be_visible(timeout=60_000)
            expect(answer.locator("figure")).to_have_count(3 + 6)
            expect(answer.get_by_text("conv5")).to_be_visible()
            assert {*answer.locator(".bar span").all_inner_texts()} <= {*NAMES}
            wide = view.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, "it has to be scrolled sideways"
            view.wait_for_timeout(500)  # it fades in
            view.screenshot(path=tmp_path / f"{width}.png", full_page=True)
            view.locator("#picks .thumbnail-item").nth(3).click()
            heading = answer.get_by_role("heading", name="image 10 of the split test")
            expect(heading).to_be_visible(timeout=30_000)
            file.set_input_files(bad)
            refused = answer.locator(".error")
            expect(refused).to_contain_text("bad.png: not an image", timeout=30_000)
            file.set_input_files(photo)
            expect(answer.get_by_role("heading", name="photo.png")).to_be_visible(timeout=30_000)
            view.get_by_label("network").click()
            view.get_by_role("option", name="small").click()
            expect(answer.locator("figure")).to_have_count(3, timeout=60_000)
            assert {*answer.locator(".bar span").all_inner_texts()} <= {*CLASSES}
            expect(view.locator("#picks")).to_be_hidden()
            view.close()
        chromium.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert asked and elsewhere == []
    assert not [text for text in said if "Content Security Policy" in text]
    assert not [text for text in said if "Error" in text], said


def test_nothing_leaves_the_machine(serving: dict[str, Any]) -> None:
    """The program itself calls nobody, and answers nobody who calls it by another name."""
    address, calls = serving["address"], serving["calls"]
    for host, status in (("127.0.0.1", 200), ("elsewhere.example", 400)):
        request = urllib.request.Request(address, headers={"Host": host})
        try:
            with urllib.request.urlopen(request) as response:
                found, only = response.status, response.headers["Content-Security-Policy"]
        except urllib.error.HTTPError as error:
            found = error.code
        assert found == status, host
    assert only.startswith("default-src 'self' ") and "http" not in only
    called = calls.read_text().splitlines()
    assert called[0].startswith("socket.getaddrinfo 127.0.0.1")  # they are heard
    assert [line for line in called if "127.0.0.1" not in line] == []


def test_ctrl_c_ends_it_and_leaves_nothing(serving: dict[str, Any]) -> None:
    """In one sentence and with the exit code of the others."""
    process = serving["process"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGINT
    assert out.splitlines()[-1].startswith("stopped by SIGINT: the page is gone") and err == ""
    assert not [path for path in serving["temporary"].iterdir() if "alexnet_jax" in path.name]
