"""`lctprune export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lctprune.cli.console import print_json, stdout
from lctprune.cli.options import SWITCH, DataOption, JsonOption, ModelOption, PartialOption, RunArgument
from lctprune.config.runtime import FULL, Precision, Runtime
from lctprune.errors import ConfigError

EXPORTS = "exports"  # folder in a run


def export(
    run: RunArgument = None,
    exit: Annotated[
        str | None,
        typer.Option(
            "--exit",
            metavar="K|NAME",
            help="Network, by its number or name (layer2, layer1 + layer2, progressive). Default: the main network.",
        ),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT,...",
            help="torchscript, pt2 (torch.export), onnx (extra: lctprune[onnx]), openvino (extra: lctprune[openvino]), "
            "executorch (extra: lctprune[executorch]), aoti (compiled by Inductor for this machine) or state-dict "
            "(safetensors); several with commas, or by several --format. Default: torchscript.",
            show_default=False,
        ),
    ] = None,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing",
            metavar=SWITCH,
            help="Take uint8 images of any size, [batch, height, width, channels], and give probabilities: resizing, "
            "cropping and normalisation are in the file.",
        ),
    ] = False,
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            metavar="fp32|int8|bf16|fp16",
            help="int8: the exit in 8-bit integers, calibrated on training samples (formats onnx and openvino). bf16, "
            "fp16: weights of 16 bits (formats torchscript, pt2, onnx and openvino).",
        ),
    ] = "fp32",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the files. Default: exports/exitK in the run.")
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
    partial: PartialOption = False,
    json: JsonOption = False,
) -> None:
    """Export one exit to files that run without lctprune, with a model.json that says how to feed them.

    Each file is tried in a new process, in which nothing but its own runtime is imported, and compared with the network
    on validation samples, in batches of 1, 3 and 64. If one differs, nothing is written.

    Examples:
    lctprune export runs/mine --exit 1 --out deployed

    lctprune export runs/mine --exit layer2 --format onnx,pt2 --with-preprocessing
    """
    from lctprune.cli.results import measured, note_not_exported, opened
    from lctprune.cli.working import working
    from lctprune.exporting.formats import SUFFIXES, WEIGHTS_SUFFIX, known_formats
    from lctprune.exporting.reducing import require_precision
    from lctprune.measure.runtimes import runtime_of
    from lctprune.utils.files import require_writable, why_not_writable
    from lctprune.workflows.combined_candidates import network_named
    from lctprune.workflows.combined_records import CombinedNetwork
    from lctprune.workflows.deployed import deployment_record
    from lctprune.workflows.deployment import deploy
    from lctprune.workflows.loading import LoadedRun

    formats = known_formats(format or ["torchscript"])
    if with_preprocessing and "state-dict" in formats:
        raise ConfigError("a state dict holds weights only; leave out --with-preprocessing, or the format state-dict")
    require_precision(formats, precision, with_preprocessing=with_preprocessing)
    runtime: Runtime = "torchscript" if precision == FULL else runtime_of(formats[0])  # scores are of the file
    found = opened(run, model=model, data=data, partial=partial)
    loaded = LoadedRun(found)
    remedy = "--out DIR writes elsewhere" if out is None else "choose another --out"
    require_writable(out or found.path / EXPORTS, remedy)
    kept_in = out if why_not_writable(found.path) else found.path
    network, is_full = network_named(loaded, exit), precision == FULL
    if isinstance(network, CombinedNetwork):
        number, name, below = network.candidate.exit, network.candidate.name, network.folder
        if not is_full:
            raise ConfigError(f"{name} answers by several exits, which have full precision only; leave out --precision")
    else:
        number, name, below = network.number, network.name, f"exit{network.number}"
    candidates = measured(
        found,
        kept_in if is_full else None,
        runtime=runtime,
        precision=precision,
        any_latency=True,
        loaded=loaded,
        only=None if is_full else number,  # the others would have to be converted too
        mean_flops=isinstance(network, CombinedNetwork) and network.part is not None,
    )
    folder = out or found.path / EXPORTS / below
    with working(f"Exporting {', '.join(formats)}, and trying each file"):
        deployment = deploy(
            found,
            candidates,
            number,
            folder,
            formats=formats,
            apart=True,
            with_preprocessing=with_preprocessing,
            precision=precision,
            loaded=loaded,
        )
    if json:
        print_json(deployment_record(deployment))
    else:
        xml = SUFFIXES["openvino"]
        weights = [each.with_suffix(WEIGHTS_SUFFIX) for each in deployment.models if each.suffix == xml]
        written = ", ".join(map(str, [*deployment.models, *weights]))
        stdout().print(f"Wrote {name}: {written} and {deployment.model_card}", soft_wrap=True)
        if exit is None:
            further = ["--with-preprocessing"] if with_preprocessing else []
            further += [] if is_full else ["--precision", precision]
            note_not_exported(loaded, number, formats if format else [], further)
