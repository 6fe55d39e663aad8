"""The programs in examples/ run as they stand, each in a process and a folder of its own."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from matplotlib import pyplot

import lctprune as lct
from lctprune.workflows.deployment import deploy

EXAMPLES = Path(__file__).parent.parent / "examples"
DEPLOYED = ("deploy_without_lctprune.py", "classify_with_onnxruntime.py")
ELSEWHERE = ("leave_early_with_onnxruntime.py",)  # run by test_combined_exits.py
ALONE = ("own_dataset.py", "own_network.py", "own_training_loop.py")


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
WEB_VERSION = "1.30.0"  # of onnxruntime-web


def python(*arguments: object, folder: Path, path: Path | None = None) -> str:
    """Run Python with warnings as errors; what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-W", "error", *(str(argument) for argument in arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*ALONE, *DEPLOYED, *ELSEWHERE}
    assert {path.name for path in EXAMPLES.glob("*.js")} == {"classify_in_a_browser.js"}


@pytest.mark.parametrize(
    ("name", "printed", "written"),
    [
        ("own_dataset.py", "on validation", "stripes.pt"),
        ("own_network.py", "3 groups", None),
        ("own_training_loop.py", "epoch 3: validation accuracy", "backbone.pt"),
    ],
)
def test_an_example_runs(name: str, printed: str, written: str | None, tmp_path: Path) -> None:
    assert printed in python(EXAMPLES / name, folder=tmp_path)
    assert written is None or (tmp_path / written).stat().st_size > 0


@pytest.mark.filterwarnings("ignore::lctprune.errors.NetworkWarning")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "from_network_to_file.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {"model.pt", "model.json"}
    assert names["chosen"].flops <= 0.75 * names["candidates"][-1].flops
    assert names["chosen"].accuracy > 0.5
    pyplot.close("all")


def test_the_command_takes_the_example_s_own_network(tmp_path: Path) -> None:
    printed = python(
        "-m", "lctprune", "inspect", "own_network:small", "--groups", "3", "--json", folder=tmp_path, path=EXAMPLES
    )
    assert '"groups"' in printed


def test_an_exported_network_is_used_where_there_is_no_lctprune(
    trained: lct.Run, image_folder: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    assert cli("export", trained.path, "--exit", 1, "--out", tmp_path / "selected").code == 0
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "lctprune.py").write_text("raise ImportError('there is no lctprune on this machine')\n")
    images = sorted((image_folder / "test").glob("*/*.png"))
    printed = python(
        EXAMPLES / "deploy_without_lctprune.py", "selected", *images, folder=tmp_path, path=tmp_path / "without"
    )
    given = [line.rsplit(": ", 1)[1].split()[0] for line in printed.splitlines()]
    with pytest.raises(AssertionError, match="no lctprune on this machine"):
        python("-c", "import lctprune", folder=tmp_path, path=tmp_path / "without")

    network = lct.load_network(trained).subnetwork(1).eval()
    data = trained.load_data()
    inputs, _ = next(data.test.batches(len(images)))
    assert given == [data.classes[index] for index in network(inputs).argmax(1).tolist()]


@pytest.fixture(scope="module")
def deployed(_trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run's first exit as an ONNX file that takes pixels."""
    folder, run = tmp_path_factory.mktemp("onnx") / "deployed", lct.Run(_trained)
    deploy(run, lct.measure_run(run, keep=False), 0, folder, formats=["onnx"], with_preprocessing=True)
    return folder


def test_onnx_runtime_classifies_in_python(deployed: Path, image_folder: Path, tmp_path: Path) -> None:
    images = sorted((image_folder / "test").glob("*/*.png"))
    printed = python(EXAMPLES / "classify_with_onnxruntime.py", deployed, *images, folder=tmp_path)
    expected = [f"{each.source}: {each.top[0][0]} ({each.top[0][1]:.1%})" for each in lct.predict(deployed, images)]
    assert printed.splitlines() == expected


def test_an_onnx_file_that_takes_no_pixels_is_told_how_to_export_it(
    deployed: Path, trained: lct.Run, image_folder: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    plain, image = tmp_path / "plain", next((image_folder / "test").glob("*/*.png"))
    assert cli("export", trained.path, "--exit", 0, "--format", "onnx", "--out", plain).code == 0
    for folder, words in ((plain, "--with-preprocessing"), (deployed / "model.onnx", "give the one that lctprune")):
        command = [sys.executable, EXAMPLES / "classify_with_onnxruntime.py", folder, image]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
        assert words in result.stderr


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-web from npm."""
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", f"onnxruntime-web@{WEB_VERSION}"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.browser
@pytest.mark.skipif(
    BROWSER is None or shutil.which("npm") is None or importlib.util.find_spec("playwright") is None,
    reason="needs Chromium, npm and playwright",
)
def test_onnx_runtime_classifies_in_a_browser(
    deployed: Path, packages: Path, image_folder: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    images = sorted((image_folder / "test").glob("*/*.png"))[::4]
    shutil.copytree(packages / "node_modules" / "onnxruntime-web" / "dist", tmp_path / "ort")
    shutil.copytree(deployed, tmp_path / "deployed")
    shutil.copy(EXAMPLES / "classify_in_a_browser.js", tmp_path)
    for index, image in enumerate(images):
        shutil.copy(image, tmp_path / f"{index}.png")
    imports = '{"imports": {"onnxruntime-web": "./ort/ort.wasm.min.mjs"}}'
    (tmp_path / "index.html").write_text(f'<!doctype html><script type="importmap">{imports}</script>')
    with served(tmp_path) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{address}/index.html")
        found = page.evaluate(
            """async (count) => {
                const { classify } = await import("./classify_in_a_browser.js");
                const answers = [];
                for (let index = 0; index < count; index++) {
                    const file = await (await fetch(`${index}.png`)).blob();
                    answers.push(await classify(await createImageBitmap(file), "deployed"));
                }
                return answers;
            }""",
            len(images),
        )
        browser.close()
    for answers, expected in zip(found, lct.predict(deployed, images), strict=True):
        assert [each["name"] for each in answers] == [name for name, _ in expected.top]
        assert [each["probability"] for each in answers] == pytest.approx([p for _, p in expected.top], abs=1e-4)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder by HTTP on this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map: ClassVar = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
