"""`lctprune predict` answers as the network that was evaluated, in any format, and says what it cannot read."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import lctprune as lct
from lctprune.data.images.layout import list_folder
from lctprune.data.raw_inputs import RawInput
from lctprune.errors import ExportError
from lctprune.exporting.formats import Format
from lctprune.exporting.inductor_package import compiled_for
from lctprune.exporting.runtimes import torch_module
from lctprune.workflows.deployment import deploy
from lctprune.workflows.prediction import predictions
from lctprune.workflows.predictors import open_predictor

Cli = Callable[..., Any]


def probabilities(document: Any, classes: tuple[str, ...]) -> Tensor:
    """Return the probabilities of a document in the order of the classes, [samples, classes]."""
    rows = [{each["class"]: each["probability"] for each in one["top"]} for one in document["predictions"]]
    return torch.tensor([[row[name] for name in classes] for row in rows])


def test_its_answers_give_the_table_of_evaluate(trained: lct.Run, cli: Cli) -> None:
    table = cli("evaluate", trained.path, "--json").document["candidates"]
    assert trained.config.data is not None
    paths, labels = list_folder(trained.config.data.config).val
    for candidate in table:
        document = cli("predict", trained.path, *paths, "--exit", candidate["name"], "--json").document
        assert [each["input"] for each in document["predictions"]] == paths
        assert document["exit"] == candidate["exit"]
        right = [
            trained.config.data.classes.index(each["top"][0]["class"]) == label
            for each, label in zip(document["predictions"], labels.tolist(), strict=True)
        ]
        assert sum(right) / len(right) == pytest.approx(candidate["accuracy"])


@pytest.fixture(scope="module")
def exports(_trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Folders with exit 1 of the run of images, and with its preprocessing inside; test_examples.py has ONNX."""
    run, folders = lct.Run(_trained), {}
    candidates = lct.measure_run(run, keep=False)
    for inside in (False, True):
        folders[inside] = tmp_path_factory.mktemp("exported")
        formats: list[Format] = ["torchscript"] if inside else ["torchscript", "pt2", "state-dict"]
        deploy(run, candidates, 1, folders[inside], formats=formats, with_preprocessing=inside)
    return folders


@pytest.fixture
def exported(exports: dict[bool, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports[False], tmp_path / "e"))


def test_every_file_gives_the_probabilities_of_the_run(
    trained: lct.Run, exports: dict[bool, Path], image_folder: Path, cli: Cli
) -> None:
    images, classes = image_folder / "test", ("blue", "green", "red")
    expected = probabilities(cli("predict", trained.path, images, "--exit", 1, "--json").document, classes)
    assert len(expected) == 18
    for inside, folder in exports.items():
        names = [each["file"] for each in json.loads((folder / "model.json").read_text())["files"]]
        for file in [folder, *(folder / name for name in names)]:
            found = probabilities(cli("predict", file, images, "--json").document, classes)
            torch.testing.assert_close(found, expected, atol=0.02 if inside else 1e-4, rtol=0)


def test_grey_images_and_the_order_of_the_answers(tmp_path: Path, cli: Cli) -> None:
    data = lct.load_data(lct.DataConfig(name="digits", image_size=8))
    recipe = lct.NetworkConfig(
        model="vgg-lct", model_args={"width": 2}, groups=2, in_channels=1, image_size=8, critic="linear"
    )
    run = lct.train(
        lct.build_network(recipe), data, lct.TrainConfig(epochs=1, batch_size=512), run_dir=tmp_path / "run"
    )
    inputs, _ = next(data.val.batches(70))
    assert data.normalization is not None
    pixels = ((inputs * data.normalization.std[0] + data.normalization.mean[0]) * 255).round().to(torch.uint8)
    for index, image in enumerate(pixels[:, 0]):
        Image.fromarray(image.numpy()).save(tmp_path / f"{index}.png")
    paths = [tmp_path / f"{index}.png" for index in range(70)]
    with torch.no_grad():
        expected = lct.load_network(run)(inputs).softmax(1)
    found = cli("predict", run.path, *paths, "--json", "--top", 99).document
    torch.testing.assert_close(probabilities(found, data.classes), expected, atol=1e-4, rtol=0)
    for each in found["predictions"]:
        assert [one["probability"] for one in each["top"]] == sorted(
            (one["probability"] for one in each["top"]), reverse=True
        )
    shown = cli("predict", run.path, paths[3], "--top", 1)
    assert "main network" in shown.err
    assert "chosen" not in shown.err  # none was
    line = shown.out
    best = int(expected[3].argmax())
    assert line == f"{paths[3]}: {data.classes[best]} {expected[3, best]:.1%}\n"


def test_rows_become_numbers_in_the_units_of_the_target(
    table_run: Callable[..., lct.Run], tmp_path: Path, cli: Cli
) -> None:
    run = table_run(task="regression")
    assert run.config.data is not None
    assert run.config.data.target is not None
    network, data = lct.load_network(run), run.load_data()
    (tmp_path / "out").mkdir()
    lct.export(network, next(data.val.batches(8))[0], tmp_path / "out" / "model.pt", data=data)
    file = tmp_path / "rows.csv"
    values = torch.randn(5, 3)
    with file.open("w") as opened:
        writer = csv.writer(opened)
        writer.writerow(["note", "c", "a", "b"])  # another order, and a column that the network does not take
        writer.writerows([["x", c, a, b] for a, b, c in values.tolist()])
        writer.writerow(["x", "1", "", "2"])
        writer.writerow(["x", "1", "3", "2"])
        writer.writerow(["x", "1", "3"])
    given = torch.cat([values, torch.tensor([[3.0, 2.0, 1.0]])]).double()
    record = run.config.data
    inputs = ((given - torch.tensor(record.mean).double()) / torch.tensor(record.std).double()).float()
    with torch.no_grad():
        outputs = network(inputs)[:, 0].double()
    expected = (outputs * record.target.std[0] + record.target.mean[0]).tolist()
    for source in (run.path, tmp_path / "out"):
        result = cli("predict", source, file, tmp_path / "none.csv", "--json")
        assert result.code == 1
        document = json.loads(result.out)
        assert [each["values"][0] for each in document["predictions"]] == pytest.approx(expected, abs=1e-4)
        assert [each["line"] for each in document["predictions"]] == [2, 3, 4, 5, 6, 8]
        row, short, missing = document["left_out"]
        assert (short["line"], "has 3 cells" in short["problem"]) == (9, True)
        assert row["line"] == 7
        assert "a is missing" in row["problem"]
        assert "none.csv" in missing["problem"]
        assert result.err.count("\n") == 3
    card = tmp_path / "out" / "model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"output": {"mean": [0.0], "std": [1e308]}}))
    result = cli("predict", card, file, "--json")
    assert (result.code, "not finite in the units" in result.err) == (1, True)
    refused = cli("predict", run.path, file, "--top", 3)
    assert refused.code == 2
    assert "--top" in refused.err
    file.write_text("a,c\n1,2\n")
    assert "no column b" in cli("predict", run.path, file).err


def test_the_card_of_a_program_says_what_a_file_of_openvino_needs(
    table_run: Callable[..., lct.Run], tmp_path: Path, cli: Cli
) -> None:
    pytest.importorskip("openvino")
    run = table_run()
    data, network = run.load_data(), lct.load_network(run).subnetwork(0)
    lct.export(network, next(data.val.batches(8))[0], tmp_path / "out.xml", data=data, format="openvino")
    (file,) = json.loads((tmp_path / "model.json").read_text())["files"]
    assert (file["weights"]["file"], file["max_batch"], file["fixed_length"]) == ("out.bin", None, None)
    rows = run.path.parent / "t.csv"
    both = (("predict", tmp_path / "out.xml", rows), ("predict", run.path, rows, "--exit", 0))
    of_file, of_run = (probabilities(cli(*each, "--json").document, data.classes) for each in both)
    torch.testing.assert_close(of_file, of_run, atol=1e-4, rtol=0)


def test_lines_of_text(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    words = ["good fine film", "bad poor film", "a good one", "such a bad one, poor"]
    lines = [f"{words[index % 4]}\t{'good' if index % 2 == 0 else 'bad'}" for index in range(60)]
    for name in ("train.tsv", "test.tsv"):
        (folder / name).write_text("\n".join(lines) + "\n")
    data = lct.load_data(str(folder))
    recipe = lct.NetworkConfig(
        model="gru", model_args={"width": 4}, groups=2, vocabulary=len(data.vocabulary), num_outputs=2
    )
    run = lct.train(lct.build_network(recipe), data, lct.TrainConfig(epochs=1, batch_size=16), run_dir=tmp_path / "run")
    network = lct.load_network(run)
    (tmp_path / "out").mkdir()
    lct.export(network, next(data.val.batches(8))[0], tmp_path / "out" / "model.pt", data=data)
    inputs, _ = next(data.test.batches(60))
    with torch.no_grad():
        expected = network(inputs).softmax(1)
    (tmp_path / "plain.txt").write_text("\n\n".join(words) + "\n")
    for source in (run.path, tmp_path / "out" / "model.pt"):
        found = cli("predict", source, folder / "test.tsv", "--json").document
        torch.testing.assert_close(probabilities(found, data.classes), expected, atol=1e-4, rtol=0)
        plain = cli("predict", source, tmp_path / "plain.txt", "--json").document
        assert [each["line"] for each in plain["predictions"]] == [1, 3, 5, 7]
        torch.testing.assert_close(probabilities(plain, data.classes), expected[:4], atol=1e-4, rtol=0)
    card = tmp_path / "out" / "model.json"
    document = json.loads(card.read_text())
    document["files"][0]["fixed_length"] = 9  # as of compiled code, which would read beyond a shorter input
    card.write_text(json.dumps(document))
    fixed = open_predictor(tmp_path / "out").network
    assert fixed(torch.ones(2, 9, dtype=torch.int64)).shape == (2, 2)
    with pytest.raises(ExportError, match="takes sequences of 9 steps, and these have 4"):
        fixed(torch.ones(2, 4, dtype=torch.int64))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(words[0].encode())))
    assert cli("predict", run.path, "-", "--json").document["predictions"][0]["input"] == "-"


def test_other_kinds_of_data_are_told_what_the_network_takes(
    trained: lct.Run, table_run: Callable[..., lct.Run], image_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("train.tsv", "test.tsv"):
        (folder / name).write_text("".join(f"{word} film\t{word}\n" for word in ("good", "bad") * 30))
    data = lct.load_data(str(folder))
    recipe = lct.NetworkConfig(
        model="gru", model_args={"width": 4}, groups=2, vocabulary=len(data.vocabulary), num_outputs=2
    )
    texts = lct.train(lct.build_network(recipe), data, lct.TrainConfig(epochs=1, batch_size=16), run_dir=tmp_path / "t")
    table = table_run()
    assert table.config.data is not None
    image, rows = image_folder / "test" / "red" / "0.png", tmp_path / "rows.csv"
    rows.write_text("one,two\n1,2\n")
    of_table = f"takes rows of a table, from CSV files with the columns {', '.join(table.config.data.columns or ())}"
    for run, given, code, words in (
        (trained, rows, 1, "the network takes images"),
        (table, image, 1, of_table),
        (table, rows, 1, "the columns that the network takes"),
        (texts, image, 1, "0.png is not text in UTF-8 (byte 0x89 in line 1); the network takes texts, one per line of"),
        (texts, "a good film", 1, "(No such file or directory); the network takes texts, one per line of a file in"),
        (texts, rows, 0, "the network takes texts, one per line of a file in UTF-8, so each line is taken for a text"),
    ):
        result = cli("predict", run.path, given)
        assert (result.code, result.err.count(words)) == (code, 1), result.err
    assert "the network takes" not in cli("predict", trained.path, tmp_path / "none.csv").err


def test_what_cannot_be_read_is_named_and_left_out(
    trained: lct.Run, image_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = Path(shutil.copytree(image_folder / "test" / "red", tmp_path / "mixed"))
    (folder / "1.png").write_bytes(b"no image")
    (folder / "2.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    result = cli("predict", trained.path, folder, tmp_path / "empty", tmp_path / "none.jpg", "--json")
    assert result.code == 1
    document = json.loads(result.out)
    assert [Path(each["input"]).name for each in document["predictions"]] == ["0.png", "3.png", "4.png", "5.png"]
    assert [Path(each["input"]).name for each in document["left_out"]] == ["1.png", "2.png", "empty", "none.jpg"]
    assert "notes.txt" in result.err  # a note, as training has it
    assert result.err.count("\n") == 5


def described_as(folder: Path, name: str, content: bytes) -> Path:
    """Replace an exported file, and its hash in model.json."""
    card = json.loads((folder / "model.json").read_text())
    (folder / name).write_bytes(content)
    for each in (card, *card["files"]):
        if each["file"] == name:
            each["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(card))
    return folder / name


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_is_executed(exported: Path, tmp_path: Path, image_folder: Path, cli: Cli) -> None:
    image, mark = image_folder / "test" / "red" / "0.png", tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save(Malicious(mark), buffer)
    archive = exported / "model.pt2"
    with zipfile.ZipFile(archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    changed = {name: content for name, content in members.items() if "sample_inputs" not in name}
    weight = next(name for name in members if name.endswith("weight_0"))
    config = next(name for name in members if name.endswith("weights_config.json"))
    pickled = {
        **members,
        weight: buffer.getvalue(),
        config: members[config].replace(b'"use_pickle": false', b'"use_pickle": true'),
    }
    opaque = {**members, "archive/data/constants/opaque_obj_0": pickle.dumps(Malicious(mark))}
    sample = {**changed, "archive/data/sample_inputs/model.pt": buffer.getvalue()}
    bomb = zipped({"archive/data.pkl": bytes(2**27)}, zipfile.ZIP_DEFLATED)
    contents = {
        "model.pt": [buffer.getvalue(), pickle.dumps(Malicious(mark)), b"", bomb],
        "model.safetensors": [buffer.getvalue()],
    }
    contents["model.pt2"] = [*(zipped(each) for each in (pickled, opaque, sample)), bomb]
    for name, several in contents.items():
        for content in several:
            result = cli("predict", described_as(exported, name, content), image)
            assert result.code == 1
            assert name in result.err
            assert result.err.count("\n") == 1
            assert not mark.exists()
            assert (content is bomb) == ("unpacks to 134,217,728" in result.err)
    (tmp_path / "bomb.pt").write_bytes(bomb)
    with pytest.raises(lct.NetworkError, match="unpacks to 134,217,728"):
        lct.build_network(lct.NetworkConfig(model="mlp", features=3, groups=2), weights=str(tmp_path / "bomb.pt"))
    (tmp_path / "pickled.pt2").write_bytes(contents["model.pt2"][0])
    with suppress(Exception):
        torch_module("pt2", str(tmp_path / "pickled.pt2"))
    assert mark.exists()  # the attack is one: PyTorch by itself executes it


def test_machine_code_is_loaded_only_where_the_user_trusts_it(exported: Path, image_folder: Path, cli: Cli) -> None:
    image, file = image_folder / "test" / "red" / "0.png", exported / "model.pt"
    card = json.loads((exported / "model.json").read_text())
    for made_for, options, code, named in [
        (compiled_for(), (), 2, "--trust-code"),
        ("PyTorch 1.0, Plan9 z80, none", ("--trust-code",), 2, "compiled for PyTorch 1.0"),
        (None, ("--trust-code",), 2, "compiled for None"),
        (compiled_for(), ("--trust-code",), 1, "cannot be opened as aoti"),  # it is TorchScript
    ]:
        changed = {"format": "aoti", "compiled_for": made_for}
        files = [each | (changed if each["file"] == file.name else {}) for each in card["files"]]
        (exported / "model.json").write_text(json.dumps(card | changed | {"files": files}))
        for source in (exported, file) if card["file"] == file.name else (file,):
            result = cli("predict", source, image, *options)
            assert (result.code, result.err.count("\n")) == (code, 1), result.err
            assert named in result.err


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda card: card.pop("input"), "input"),
        (lambda card: card["input"].update(size="8"), "input.size is '8'"),
        (lambda card: card["input"].update(std=[0, 1, 1]), "std"),
        (lambda card: card["input"].update(mean=[0.5]), "mean has 1 numbers"),
        (lambda card: card["input"].update(shape=["batch", 5, 16, 16]), "5 channels"),
        (lambda card: card.update(input=None), "does not say how an input is made"),
        (lambda card: card["input"].update(shape=["batch", "time", 3]), "read from no file"),
        (lambda card: card.update(classes=["a", "b"]), "2 classes are recorded"),
        (lambda card: card.update(sha256="0" * 64, files=[]), "not the file"),
        (lambda card: card.update(format_version=99), "format_version is 99"),
        (lambda card: card.update(format="pickle", files=[]), "format is 'pickle'"),
        (lambda card: card.update(file="../run/model.pt"), "name of the exported file"),
    ],
)
def test_a_damaged_model_json_is_one_line(
    change: Callable[[Any], Any], named: str, exported: Path, image_folder: Path, cli: Cli
) -> None:
    card = json.loads((exported / "model.json").read_text())
    change(card)
    (exported / "model.json").write_text(json.dumps(card))
    result = cli("predict", exported, image_folder / "test" / "red" / "0.png", "--json")
    assert result.code == 1
    assert named in result.err
    assert result.err.count("\n") == 1
    assert json.loads(result.out)["error"] in result.err


def test_a_made_up_name_that_is_taken_literally_is_called_one(
    trained: lct.Run, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("predict", trained.path, "photo.jpg")
    assert (result.code, "photo.jpg stands for a file of yours" in result.err) == (1, True)
    Image.new("RGB", (20, 20)).save("photo.jpg")
    assert cli("predict", trained.path, "photo.jpg").code == 0


def test_what_is_no_network_is_refused(exported: Path, trained: lct.Run, tmp_path: Path, cli: Cli) -> None:
    image = tmp_path / "x.png"
    for source, options, code, named in [
        (exported / "model.pt", ("--exit", 0), 2, "exit chooses a network of a run"),
        (trained.path, ("--exit", 9), 1, "exit 9 does not exist"),
        (tmp_path / "none.pt", (), 1, "none.pt"),
        (tmp_path, (), 1, "not a run directory"),
        (trained.path / "checkpoint.safetensors", (), 1, "model.json"),
    ]:
        result = cli("predict", source, image, *options)
        assert (result.code, result.err.count("\n")) == (code, 1), result.err
        assert named in result.err
    (exported / "model.json").unlink()
    assert "model.json cannot be read" in cli("predict", exported / "model.pt", image).err


def test_a_network_that_depends_on_its_batch_is_asked_sample_by_sample(tmp_path: Path) -> None:
    data = lct.load_data(lct.DataConfig(name="digits", image_size=8))

    class Whitened(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0)).flatten(1)[:, :10]

    inputs, _ = next(data.val.batches(8))
    with pytest.warns(lct.NetworkWarning):
        lct.export(Whitened(), inputs, tmp_path / "model.pt", data=data)
    predictor = open_predictor(tmp_path / "model.pt")
    items = [RawInput(str(index), None, torch.full((8, 8, 1), index, dtype=torch.uint8)) for index in range(20)]
    with pytest.warns(lct.NetworkWarning, match="one by one"):
        together = list(predictions(predictor, items))
    assert together == [next(predictions(predictor, [item])) for item in items]
