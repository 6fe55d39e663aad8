"""`lctprune report`."""

from __future__ import annotations

from lctprune.cli.console import print_json, stdout
from lctprune.cli.options import DataOption, JsonOption, ModelOption, OutOption, PartialOption, RunArgument


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
    from lctprune.measure.candidates import candidate_of
    from lctprune.measure.rules import Rule
    from lctprune.utils.files import write_atomically
    from lctprune.workflows.loading import LoadedRun
    from lctprune.workflows.measurements import CANDIDATES, read_recall

    found = opened(run, model=model, data=data, partial=partial)
    folder = results_folder(found, out)
    loaded = LoadedRun(found)
    candidates = measured(found, folder, any_latency=True, loaded=loaded)
    if folder is None:
        show_candidates(found, candidates, f"{found.path} on its validation split", epochs=loaded.epochs, json=json)
        return
    from lctprune.reports import report_page  # takes a second to import

    path = folder / "report.html"
    selection = present_selection(loaded)
    recall = read_recall(folder / CANDIDATES) or read_recall(found.path / CANDIDATES)
    if selection is None:
        page = report_page(found, candidates, recall=recall)
    else:
        main = selection["main_network"]["test"]
        test = {**selection["test"], "main_accuracy": main["accuracy"], "main_score": main.get("score")}
        page = report_page(
            found,
            candidates,
            chosen=candidate_of(candidates, selection["exit"]),
            budget=selection["budget"],
            rule=Rule(**selection.get("rule", {})),
            test=test,
            recall=recall,
        )
    write_atomically(path, page.encode())
    if json:
        print_json({"run": str(found.path), "report": str(path)})
    else:
        stdout().print(f"Wrote {path}", soft_wrap=True)
