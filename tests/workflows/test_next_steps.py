"""Notes and commands after a training."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import lctprune as lct
from lctprune.workflows.next_steps import (
    ENOUGH,
    after_selection,
    behind_its_exits,
    better_epoch,
    budget_in_percent,
    like_chance,
    no_better,
    selection,
    selection_of_another,
    training_of_critics,
)
from lctprune.workflows.sample_inputs import sample_input


def test_an_epoch_that_was_clearly_better_is_named(trained: lct.Run) -> None:
    first, last = trained.rows_to_continue()
    tensors = trained.read_checkpoint("")
    clearly, by_chance, hardly = (0.998, 0.47), (0.53, 0.47), (0.5, 0.47)  # of 90 samples
    for scores, words in ((clearly, "99.8% after epoch 1 and is 47.0% after epoch 2"), (by_chance, ""), (hardly, "")):
        rows = [{**row, "exit2_val_accuracy": score} for row, score in zip((first, last), scores, strict=True)]
        trained.write_checkpoint(2, tensors, rows=rows)
        trained.write_metrics(rows)
        assert words in better_epoch(trained)
        assert bool(words) is bool(better_epoch(trained))


def test_a_fine_tuned_network_is_compared_with_the_one_it_was_made_from(trained: lct.Run) -> None:
    added = lct.finetune(trained, 1, epochs=2)
    (first, last), tensors = added.rows_to_continue(), added.read_checkpoint("")
    rows = [{**first, "exit0_val_accuracy": 0.998}, {**last, "exit0_val_accuracy": 0.47}]
    assert better_epoch(added) == ""
    added.write_checkpoint(2, tensors, rows=rows)
    added.write_metrics(rows)
    assert better_epoch(lct.Run(added.path)) == (
        "the new network's validation accuracy was 99.8% after epoch 1 and is 47.0% after epoch 2: in training, fewer "
        "`epochs` or a lower `lr` may be better"
    )
    candidates = lct.measure_run(trained)
    number = next(each.exit for each in candidates if each.origin)
    for score, words in ((0.567, "has 56.7% on validation, no better than "), (0.6, "(60.0%)"), (0.61, "")):
        scores = {1: 0.6, number: score}
        given = [
            dataclasses.replace(each, accuracy=scores.get(each.exit, 0.5), score=scores.get(each.exit, 0.5))
            for each in candidates
        ]
        note = no_better(given, added, [number])
        assert words in note
        assert bool(words) is bool(note)


def test_the_suggested_budget_fits_the_smallest_network() -> None:
    costs = {"accuracy": 0.5, "loss": 1.0, "latency_ms": 1.0, "size_bytes": 1}
    main = lct.Candidate(exit=1, name="main network", flops=1000, macs=500, parameters=10, **costs)
    small = lct.Candidate(exit=0, name="a", flops=751, macs=375, parameters=9, **costs)
    assert budget_in_percent([small, main], main) == ("flops", 76)
    assert lct.select([small, main], lct.Budget(flops="76%")) == small
    unknown = lct.Candidate(exit=1, name="main network", flops=None, macs=None, parameters=10, **costs)
    assert budget_in_percent([small, unknown], unknown) == ("parameters", 90)


def test_another_budget_chooses_another_network(trained: lct.Run) -> None:
    costs = {"loss": 1.0, "latency_ms": 1.0, "size_bytes": 1, "parameters": 1}
    found = ((0, 250, 0.7), (1, 396, 0.8), (2, 629, 0.75), (3, 1000, 0.9))
    candidates = [
        lct.Candidate(exit=exit, name=f"{exit}", flops=flops, macs=flops // 2, accuracy=accuracy, **costs)
        for exit, flops, accuracy in found
    ]
    least, middle, _, main = candidates
    for chosen, others in ((middle, candidates), (least, candidates)):
        *words, option, folder = shlex.split(selection_of_another(trained, others, chosen, range(4)))
        assert (option, folder) == ("--out", f"{trained.path}-{words[-1].removesuffix('%')}")
        assert words[:-1] == ["lctprune", "select", str(trained.path), "--budget-flops"]
        assert lct.select(others, lct.Budget(flops=words[-1])) is (least if chosen is middle else middle)
    assert " 25% --out " in selection_of_another(trained, candidates, middle, range(4))
    assert selection_of_another(trained, candidates, middle, [1, 2]) == ""
    assert selection(trained, candidates).endswith(" 60%")
    assert selection(trained, candidates, [0]).endswith(" 25%")
    assert selection(trained, candidates, [2]).endswith(" 60%")  # worse than a smaller one: no budget selects it
    assert selection_of_another(trained, [least, main], least, range(4)) == ""


def test_a_main_network_that_few_steps_left_behind_is_named(trained: lct.Run) -> None:
    first, *_, main = lct.measure_run(trained)
    for samples, score, words in ((400, 0.6, "(50.0%) is behind layer1"), (400, 0.53, ""), (20, 0.6, "")):
        good = dataclasses.replace(first, name="layer1", accuracy=score, score=score, samples=samples)
        deep = dataclasses.replace(main, accuracy=0.5, score=0.5, samples=samples)
        note = behind_its_exits(trained, [good, deep])
        assert words in note
        assert bool(words) is bool(note)


def test_steps_are_counted_as_training_counts_them(trained: lct.Run) -> None:
    record = json.loads((trained.path / "config.json").read_text())
    record["training"]["batch_size"] = 20  # of 54 samples: two batches, and no third of 14
    (trained.path / "config.json").write_text(json.dumps(record))
    first, *_, main = lct.measure_run(trained)
    good = dataclasses.replace(first, accuracy=0.9, score=0.9, samples=400)
    deep = dataclasses.replace(main, accuracy=0.5, score=0.5, samples=400)
    assert "after 4 steps" in behind_its_exits(lct.Run(trained.path), [good, deep])


def test_a_selection_is_followed_by_prediction_and_report(trained: lct.Run, image_folder: Path) -> None:
    folder = trained.path / "selected"
    said = after_selection(trained, folder / "model.pt", is_inside=True)
    photo = image_folder / "test" / "blue" / "0.png"
    assert said == (
        f"Next, predict with it: lctprune predict {folder} {photo}; a page to read: lctprune report {trained.path}"
    )
    assert after_selection(trained, folder / "model.aoti.pt2", is_inside=False).endswith(f" {photo} --trust-code")
    record = json.loads((trained.path / "config.json").read_text())
    record["data"]["config"]["name"] = "digits"  # of which nobody has a file to predict for
    (trained.path / "config.json").write_text(json.dumps(record))
    builtin = lct.Run(trained.path)
    only_page = after_selection(builtin, folder / "model.pt", is_inside=True)
    assert only_page == f"Next, a page to read: lctprune report {trained.path}"
    assert after_selection(builtin, folder / "model.pt", is_inside=False) == ""


def test_a_file_to_predict_for_is_one_of_the_data_where_it_has_files(
    trained: lct.Run,
    table_run: Callable[..., lct.Run],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sample_input(trained) == str(image_folder / "test" / "blue" / "0.png")
    assert sample_input(table_run()) == str(tmp_path / "t.csv")
    monkeypatch.chdir(image_folder)
    assert sample_input(trained) == "test/blue/0.png"
    record = json.loads((trained.path / "config.json").read_text())
    record["data"]["config"]["name"] = "digits"
    (trained.path / "config.json").write_text(json.dumps(record))
    assert sample_input(lct.Run(trained.path)) == "photo.jpg"


def test_what_may_be_chance_is_trained_longer_until_that_is_no_remedy(trained: lct.Run) -> None:
    rows = trained.rows_to_continue()
    main = lct.measure_run(trained)[-1]

    def note(
        score: float, samples: int, epochs: int = 2, best: float = 0.0, frequent: float | None = None, loss: float = 1.0
    ) -> str:
        scores = {"exit2_val_accuracy": score, "exit2_val_loss": loss}
        lines = [{**rows[-1], **scores, "epoch": epoch + 1} for epoch in range(epochs)]
        lines[0] |= {"exit2_val_accuracy": max(best, score), "exit2_val_loss": 1.0}
        trained.write_checkpoint(epochs, trained.read_checkpoint(""), rows=lines)
        trained.write_metrics(lines)
        one = dataclasses.replace(
            main, accuracy=score, score=score, samples=samples, answers=None, most_frequent=frequent
        )
        return like_chance(lct.Run(trained.path), [one])

    assert note(0.9, 90) == ""
    assert note(0.3, 90).endswith(f"to train it longer: lctprune resume {trained.path} --epochs 8")
    assert note(0.3, 90, ENOUGH).endswith("may be chance")
    assert note(0.3, 90, loss=1.1).endswith("may be chance")  # longer training only raises the loss
    assert note(0.3, 90, best=0.9).endswith("may be chance")  # beside the note that fewer epochs may be better
    assert note(0.8, 90, frequent=0.8).endswith(
        "train with `balance_classes` and `metric=balanced-accuracy`, so that classes count alike"
    )
    assert note(0.9, 90, frequent=0.8) == ""
    assert note(0.3, 4).endswith("4 validation samples are too few to tell: train with `val_fraction=0.19`")
    (trained.path / "dense").mkdir()  # which further training would outdate
    assert note(0.3, 90).endswith("may be chance")


def test_critics_are_trained_on_the_runs_own_model_and_data(trained: lct.Run) -> None:
    words = shlex.split(training_of_critics(trained))
    assert words[:3] == ["lctprune", "train", "vgg-lct"]
    assert words[words.index("--model-args") + 1] == "width=4"
    assert words[words.index("--image-size") + 1] == "16"
    assert words[words.index("--batch-size") + 1] == "18"
    assert words[words.index("--weights") + 1 :] == [str(trained.path), "--freeze-main"]
