"""Text encoders and vision transformers of Hugging Face transformers: as one's own module, and by the name hf/PATH."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lctprune as lct
from lctprune.errors import ConfigError, NetworkError, NetworkWarning, PartitionError
from lctprune.models.own_images import own_images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

Cli = Callable[..., Any]
OUTPUTS, TOLERANCE = 3, 1e-5
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {"vocab_size": 40, "num_labels": OUTPUTS, "max_position_embeddings": 20, **LAYERS}
VISION = {"image_size": 16, "patch_size": 4, "num_labels": OUTPUTS, **LAYERS}
DISTIL = {"vocab_size": 40, "num_labels": OUTPUTS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
STAGES = {"hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "num_labels": OUTPUTS}

TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", TEXT),
    "roberta": ("Roberta", {**TEXT, "pad_token_id": 1}),
    "modernbert": ("ModernBert", {**TEXT, **SPECIAL, "local_attention": 4, "global_attn_every_n_layers": 2}),
    "distilbert": ("DistilBert", DISTIL),
    "electra": ("Electra", {**TEXT, "embedding_size": 8}),
    "xlm-roberta": ("XLMRoberta", {**TEXT, "pad_token_id": 1}),
    "minilm": ("Bert", {**TEXT, "hidden_size": 8}),
}
IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", {**VISION, "hidden_dropout_prob": 0.1}),
    "resnet": ("ResNet", {**STAGES, "embedding_size": 8, "layer_type": "basic", "image_size": 16}),
    "deit": ("DeiT", VISION),
    "beit": ("Beit", VISION),
    "dinov2": ("Dinov2", {key: value for key, value in VISION.items() if key != "intermediate_size"}),
    "convnext": ("ConvNext", {**STAGES, "num_stages": 3, "drop_path_rate": 0.1, "image_size": 32}),
    "swin": (
        "Swin",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 2}
        | {"num_labels": OUTPUTS},
    ),
}
QUICK_TEXTS, QUICK_IMAGES = ("bert",), ("vit",)


def model_of(kind: str, settings: dict[str, Any], *, images: bool) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    task = "Image" if images else "Sequence"
    model: nn.Module = getattr(transformers, f"{kind}For{task}Classification")(config)
    return model


def cases(names: dict[str, Any], quick: tuple[str, ...]) -> list[Any]:
    """List all names, of which all but the quick ones are slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def step(network: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output and the gradients of a step in training mode, from one seed."""
    model.zero_grad()
    torch.manual_seed(0)
    output = network(x)
    output.square().sum().backward()
    return output.detach(), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def check(model: nn.Module, logits: Callable[[Tensor], Tensor], x: Tensor, others: list[Tensor]) -> None:
    """Cut into groups, a model computes what it did in both modes, under its own names."""
    names = list(model.state_dict())
    network = lct.attach_critics(model, x[:1], num_outputs=OUTPUTS, groups=3)
    assert set(names) - network.main_state_dict().keys() <= {"dinov2.embeddings.mask_token"}  # which nothing runs
    network.eval(), model.eval()
    with torch.no_grad():
        for samples in (x, x[:1], *others):
            torch.testing.assert_close(network(samples), logits(samples), rtol=TOLERANCE, atol=TOLERANCE)
            assert all(each.isfinite().all() for each in network.exits(samples))
    network.train(), model.train()
    expected, gradients = step(logits, model, x)
    output, own = step(network, model, x)
    torch.testing.assert_close(output, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=TOLERANCE)
    losses = lct.local_critic_backward(network, x, torch.arange(len(x)) % OUTPUTS)
    assert all(loss.isfinite().all() for loss in losses)
    assert all(
        any(each.grad is not None and each.grad.any() for each in group.parameters()) for group in network.groups
    )


@pytest.mark.parametrize("name", cases(TEXTS, QUICK_TEXTS))
def test_a_text_encoder_is_cut_with_its_mask(name: str) -> None:
    model = model_of(*TEXTS[name], images=False)
    padding = model.config.pad_token_id
    x = torch.randint(3, 40, (4, 9))
    x[1, 5:] = x[3, 1:] = padding

    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids, attention_mask=(ids != padding).long()).logits

    assert not torch.allclose(logits(x[1:2]), model(input_ids=x[1:2]).logits)  # the mask matters
    longer = torch.nn.functional.pad(x, (0, 4), value=padding)
    check(model, logits, x, [x[:, :4], longer, x[:1, :1]])


@pytest.mark.slow
def test_a_swin_whose_window_is_as_large_as_a_map_is_refused_by_name() -> None:
    """It then sets its shift in forward; all of the usual sizes do so at their last maps."""
    model = model_of("Swin", {**IMAGES["swin"][1], "window_size": 4}, images=True)
    with pytest.raises(PartitionError, match=r"SwinForImage.* at swin\.encoder\S* \(it assigns its attribute shift"):
        lct.attach_critics(model, torch.zeros(1, 3, 16, 16), num_outputs=OUTPUTS)


@pytest.mark.parametrize("name", cases(IMAGES, QUICK_IMAGES))
def test_a_vision_model_is_cut(name: str) -> None:
    kind, settings = IMAGES[name]
    model = model_of(kind, settings, images=True)
    x = torch.randn(4, 3, settings["image_size"], settings["image_size"])
    check(model, lambda pixels: model(pixel_values=pixels).logits, x, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("Albert", {"embedding_size": 8}, "the model has"),  # all layers are one
        ("MPNet", {}, "the model has"),  # all layers read one table of relative positions
    ],
)
def test_an_encoder_whose_layers_share_parameters_is_refused(kind: str, more: dict[str, Any], why: str) -> None:
    model = model_of(kind, {**TEXT, **more}, images=False)
    with pytest.raises(PartitionError, match=why):
        lct.attach_critics(model, torch.randint(3, 40, (1, 9)), num_outputs=OUTPUTS, groups=8)


@pytest.mark.slow
def test_a_backbone_inside_ones_own_module_is_cut() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = transformers.BertModel(transformers.BertConfig(**TEXT))
            self.head = nn.Linear(16, OUTPUTS)

        def forward(self, ids: Tensor) -> Tensor:
            mask = (ids != 0).long()
            hidden = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
            return self.head((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    model, x = Own(), torch.randint(1, 40, (3, 8))
    x[2, 4:] = 0
    network = lct.attach_critics(model, x, num_outputs=OUTPUTS, groups=3).eval()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=TOLERANCE, atol=TOLERANCE)
    assert "backbone.encoder.layer.0" in network.cut_point_names[0]


def test_the_groups_of_the_guide_compute_what_the_model_computes() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "any-network.md").read_text()
    start = guide.index("class Front(nn.Module)")
    code = guide[start : guide.index("layers = model.bert.encoder.layer", start)]
    namespace: dict[str, Any] = {"nn": nn}
    exec(compile(code, "guide", "exec"), namespace)
    model = model_of(*TEXTS["bert"], images=False).eval()
    layers = model.bert.encoder.layer
    groups = [namespace["Front"](model.bert, layers[:1]), namespace["Rest"](model, layers[1:])]
    network = lct.LocalCriticNetwork(groups, [lct.make_critic("tail", (9, 16), OUTPUTS)]).eval()
    ids = torch.randint(1, 40, (3, 9))
    ids[1, 4:] = 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        torch.testing.assert_close(network(ids), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_model_without_a_classifier_is_refused() -> None:
    model = transformers.BertModel(transformers.BertConfig(**TEXT))
    with pytest.raises(PartitionError, match="BertModel does not return one tensor"):
        lct.attach_critics(model, torch.ones(1, 8, dtype=torch.long), num_outputs=OUTPUTS, groups=2)


@pytest.mark.slow
def test_too_long_a_text_gets_a_line() -> None:
    model, x = model_of(*TEXTS["bert"], images=False), torch.ones(1, 8, dtype=torch.long)
    network = lct.attach_critics(model, x, num_outputs=OUTPUTS, groups=2)
    with pytest.raises(NetworkError, match=r"\[batch, 1 to 20\], and got \[2, 21\]"):
        network(torch.ones(2, 21, dtype=torch.long))


# --- trained, measured, chosen and exported --------------------------------------------------------------------------

ALONE = """
import sys, torch
sys.modules["lctprune"] = sys.modules["transformers"] = None
model, x, expected = torch.jit.load(sys.argv[1]), *torch.load(sys.argv[2])
for samples, outputs in zip(x, expected):
    torch.testing.assert_close(model(samples), outputs, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
def test_ones_own_bert_is_trained_measured_chosen_and_exported(tmp_path: Path) -> None:
    targets = torch.arange(60) % OUTPUTS
    ids = torch.randint(6, 40, (60, 10))
    ids[:, 0] = targets + 3
    ids[::2, 6:] = 0
    split = lct.TensorSplit(ids, targets)
    data = lct.Data(train=split, val=split, test=split, classes=("a", "b", "c"))
    model = model_of(*TEXTS["bert"], images=False)
    network = lct.attach_critics(model, data.example, num_outputs=OUTPUTS, groups=3)
    lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=20, seed=0), run_dir=tmp_path / "run")
    network.eval()
    candidates = lct.evaluate(network, data.val, data.example)
    assert [each.flops for each in candidates] == sorted(each.flops or 0 for each in candidates)
    best = lct.select(candidates, lct.Budget(flops=candidates[1].flops))
    with torch.no_grad():
        x = [ids[:4], ids[:1], ids[:7, :3]]
        expected = [network.subnetwork(best.exit)(each) for each in x]
    torch.save((x, expected), tmp_path / "samples.pt")
    path = lct.export(network.subnetwork(best.exit), ids[:8], tmp_path / "model.pt", format="torchscript")
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(path), str(tmp_path / "samples.pt")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    model.load_state_dict(network.main_state_dict())


# --- by name ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` writes it: a vision transformer for 5 classes, with its preprocessing."""
    folder = tmp_path_factory.mktemp("hub") / "vit"
    model_of("ViT", {**VISION, "num_labels": 5}, images=True).save_pretrained(folder)  # type: ignore[operator]
    content = {"size": {"height": 16, "width": 16}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def test_the_command_line_trains_a_folder_and_needs_it_no_more(
    saved: Path, tmp_path: Path, cli: Cli, image_folder: Path
) -> None:
    folder = tmp_path / "vit"
    shutil.copytree(saved, folder)
    options = ("--data", image_folder, "--groups", 2, "--epochs", 1, "--batch-size", 20, "--threads", 1)
    trained = cli("train", f"hf/{folder}", *options, "--weights", "default", "--out", tmp_path / "run")
    assert trained.code == 0, trained.err
    assert "classifier is new" in trained.err + trained.out
    config = lct.Run(tmp_path / "run").config
    assert config.data is not None
    assert (config.data.mean, config.data.std) == ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    assert config.data.preprocessing is not None
    assert config.data.preprocessing.size == 16
    shutil.rmtree(folder)
    network = lct.load_network(tmp_path / "run")
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    selected = cli("select", tmp_path / "run", "--budget-flops", "90%", "--json")
    assert selected.code == 0, selected.err
    assert (tmp_path / "run" / "selected" / "model.pt").is_file()
    again = cli("train", f"hf/{folder}", *options, "--out", tmp_path / "run", "--resume")
    assert again.code == 0, again.err


def test_the_preprocessing_of_a_folder(saved: Path, tmp_path: Path) -> None:
    assert own_images(f"hf/{saved}").size == 16
    assert own_images(f"hf/{saved}").normalization == ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    content = {"do_center_crop": True, "crop_size": 8, "size": {"shortest_edge": 10}, "rescale_factor": 1 / 127.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**content, "image_mean": [1.0], "image_std": [1.0]}))
    assert own_images(f"hf/{tmp_path}").size == 8
    assert own_images(f"hf/{tmp_path}").normalization == ((0.5,), (0.5,))  # -1 to 1


def test_weights_come_from_safetensors_alone(saved: Path, tmp_path: Path) -> None:
    recipe = lct.NetworkConfig(model=f"hf/{saved}", groups=1, num_outputs=5, image_size=16)
    network = lct.build_network(recipe, weights="default")
    original = transformers.ViTForImageClassification.from_pretrained(saved)
    for name, tensor in original.state_dict().items():
        assert torch.equal(network.main_state_dict()[name], tensor), name
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    torch.save(original.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(NetworkError, match=r"cannot load the weights .*model\.safetensors"):
        lct.build_network(lct.NetworkConfig(**{**vars(recipe), "model": f"hf/{tmp_path}"}), weights="default")


CODE = "from pathlib import Path\nPath({mark!r}).touch()\nfrom transformers import *\nOwnConfig = ViTConfig\n"


@pytest.mark.slow
def test_the_example_of_the_guide_with_the_models_own_tokenizer(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    model_of("Bert", {**TEXT, "num_labels": 2}, images=False).save_pretrained(tmp_path)  # type: ignore[operator]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    sentences, labels = ["a good film", "bad", "A bad film", "good"] * 8, [1, 0, 0, 1] * 8
    ids = tokenizer(sentences, padding=True, truncation=True, max_length=64, return_tensors="pt").input_ids
    assert ids[:2].tolist() == [[2, 5, 6, 8, 3], [2, 7, 3, 0, 0]]
    split = lct.TensorSplit(ids, torch.tensor(labels))
    network = lct.attach_critics(model, ids[:1], num_outputs=2, groups=2)
    data = lct.Data(train=split, val=split, test=split, classes=("bad", "good"))
    lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=8, device="cpu"), run_dir=tmp_path / "run")
    model.load_state_dict(network.main_state_dict())
    encoded = tokenizer(sentences[:4], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask).logits
        torch.testing.assert_close(network.eval()(ids[:4]), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
def test_a_text_encoder_by_name_starts_new(tmp_path: Path, cli: Cli) -> None:
    model_of(*TEXTS["bert"], images=False).save_pretrained(tmp_path / "bert")  # type: ignore[operator]
    for name, count in (("train", 40), ("test", 8)):
        lines = [f"{('good', 'bad')[k % 2]} film {k % 5}\t{k % 2}" for k in range(count)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    options = ("--data", tmp_path, "--groups", 2, "--epochs", 1, "--batch-size", 8, "--threads", 1)
    refused = cli("train", f"hf/{tmp_path}/bert", *options, "--weights", "default", "--out", tmp_path / "no")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "tokenizer of its own" in refused.err
    assert not (tmp_path / "no").exists()
    trained = cli("train", f"hf/{tmp_path}/bert", *options, "--out", tmp_path / "run")
    assert trained.code == 0, trained.err
    recipe = lct.Run(tmp_path / "run").config.network
    assert recipe is not None
    assert (
        recipe.vocabulary
        == lct.load_network(tmp_path / "run").main_state_dict()["bert.embeddings.word_embeddings.weight"].shape[0]
    )


def test_code_in_a_folder_is_never_executed(saved: Path, tmp_path: Path) -> None:
    content = json.loads((saved / "config.json").read_text())
    content["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnModel"}
    (tmp_path / "own.py").write_text(CODE.format(mark=str(tmp_path / "executed")))
    for kind in ("vit", "own_kind"):
        (tmp_path / "config.json").write_text(json.dumps({**content, "model_type": kind}))
        recipe = lct.NetworkConfig(model=f"hf/{tmp_path}", groups=1, num_outputs=5, image_size=16)
        if kind == "vit":
            assert lct.build_network(recipe).recipe.architecture["model_type"] == "vit"  # type: ignore[union-attr,index]
        else:
            with pytest.raises(ConfigError, match="code that comes with a model is not executed"):
                lct.build_network(recipe)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"model": "hf/./nowhere"}, "there is no folder ./nowhere"),
        ({"model_args": {"wide": 3}}, "has no wide"),
        ({"vocabulary": 30, "steps": 5}, "takes images"),
        ({"features": 3}, "takes images"),
    ],
)
def test_what_cannot_be_built_gets_one_line(settings: dict[str, Any], why: str, saved: Path) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        lct.build_network(lct.NetworkConfig(**{"model": f"hf/{saved}", "groups": 1, "image_size": 16, **settings}))
    assert "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", NetworkWarning)
        yield
