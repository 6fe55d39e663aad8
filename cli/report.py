"""`lctprune report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lctprune.cli.console import print_json, printed_warnings, stderr, stdout
from lctprune.cli.options import DataOption, JsonOption, ModelOption, OutOption, PartialOption, RunArgument

if TYPE_CHECKING:
    from lctprune.measure.answers import ReportAnswers
    from lctprune.measure.candidates import Candidate
    from lctprune.workflows.loading import LoadedRun


def report(
    run: RunArgument = None,
    model: ModelOption = None,
    data: DataOption = None,
    out: OutOption = None,
    partial: PartialOption = False,
    json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about a run, and about what was selected from it.

    Example:
    lctprune report runs/mine
    """
    from lctprune.cli.results import measured, opened, present_selection, results_folder, show_candidates
    from lctprune.measure.rules import Rule
    from lctprune.utils.files import write_atomically
    from lctprune.workflows.combined_candidates import has_progressive
    from lctprune.workflows.compression_record import read_record
    from lctprune.workflows.compression_schedule import COMPRESSION
    from lctprune.workflows.loading import LoadedRun
    from lctprune.workflows.measurements import CANDIDATES, read_recall
    from lctprune.workflows.members import further_runs, trained_exits
    from lctprune.workflows.progressive_files import read_progressive
    from lctprune.workflows.selections import chosen_among

    found = opened(run, model=model, data=data, partial=partial)
    folder = results_folder(found, out)
    loaded = LoadedRun(found)
    selection = present_selection(loaded)
    means = bool(selection and selection.get("mean_flops")) and has_progressive(loaded)
    candidates = measured(found, folder, any_latency=True, loaded=loaded, mean_flops=means)
    if folder is None:
        show_candidates(found, candidates, f"{found.path} on its validation split", epochs=loaded.epochs, json=json)
        return
    from lctprune.reports import FurtherRun, report_page  # takes a second to import

    path = folder / "report.html"
    with printed_warnings(stderr()):
        progressive = read_progressive(loaded)
    recall = read_recall(folder / CANDIDATES) or read_recall(found.path / CANDIDATES)
    chosen = None if selection is None else chosen_among(candidates, selection)
    selection = None if chosen is None else selection
    page = report_page(
        found,
        candidates,
        chosen=chosen,
        budget=selection and selection["budget"],
        rule=Rule(**selection.get("rule", {})) if selection else None,
        test=selection and _on_test(selection),
        recall=recall,
        answers=_answers(loaded, candidates, chosen),
        model_card=selection,
        checkpoint_sha256=loaded.checkpoint().sha256,
        progressive=progressive,
        further=[
            FurtherRun(folder=str(each.path.relative_to(found.path)), run=each, names=trained_exits(each)[0])
            for each in further_runs(loaded)
        ],
        compression=read_record(record) if (record := found.path / COMPRESSION).is_file() else None,
    )
    write_atomically(path, page.encode())
    if json:
        print_json({"run": str(found.path), "report": str(path)})
    else:
        stdout().print(f"Wrote {path}", soft_wrap=True)


def _on_test(selection: dict[str, Any]) -> dict[str, Any]:
    """Return the test results of the selected network, with those of the main network beside them."""
    main = selection["main_network"]["test"]
    return {**selection["test"], "main_accuracy": main["accuracy"], "main_score": main.get("score")}


def _answers(loaded: LoadedRun, candidates: Sequence[Candidate], chosen: Candidate | None) -> ReportAnswers | None:
    """Read the answers of the chosen network on the test split, of the main network on validation if none was chosen.

    The page does without them where the data cannot be read any more; a note on stderr says so.
    """
    from lctprune.cli.working import working
    from lctprune.errors import DataError, RunError
    from lctprune.measure.selection import main_of
    from lctprune.workflows.answers import read_answers

    exit, split = (main_of(candidates).exit, "val") if chosen is None else (chosen.exit, "test")
    try:
        with working("Reading the answers of the networks"):
            return read_answers(loaded, candidates, exit, split="val" if split == "val" else "test")
    except (DataError, RunError) as error:
        stderr().print(f"Note: the page shows no answers: {error}.")
        return None
