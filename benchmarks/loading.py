"""How fast are image files decoded, cropped and batched, beside other decoders and timm's loader?

    python benchmarks/loading.py --data flowers --image-size 128 --repeats 5

Decoders read the same files one after the other in one thread, by its CPU time. Loaders yield the same work on the same
number of worker processes, by the clock: a random part of each image, resized, mirrored at random and normalised, in
batches of 64 on the CPU. They take turns, and ratios are of the passes of one turn. So do trainings of a ResNet-18
whose batches come from each loader (of width 8, or `--step-widths`): one thread of PyTorch beside the workers, and the
same steps without a loader. `--made N` writes N pictures of 500x375 pixels and uses those. The loader also reads the
same files packed into tar and Parquet files.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import statistics
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from lctprune.config.images import ImagePreprocessing
from lctprune.config.network import NetworkConfig
from lctprune.data.images.decoding import read_image
from lctprune.data.images.files import FolderSplit
from lctprune.data.images.fitting import LEAST_AREA, RandomChanges
from lctprune.data.images.folder import IMAGENET
from lctprune.data.images.workers import ImageReaders
from lctprune.data.packed.arrow_images import image_shards
from lctprune.data.packed.tar_shards import read_tar
from lctprune.data.packed_samples import ImageSource, PackedImages
from lctprune.data.preprocessing import Augmentation
from lctprune.errors import DataWarning
from lctprune.models.build import build_model
from lctprune.utils.environment import machine

Loader = Callable[[int], Iterable[Sequence[Tensor]]]  # from the number of a pass to its batches: inputs, targets

VERSIONS = ("pillow", "simplejpeg", "torch", "torchvision", "timm")
WIDTH, HEIGHT, QUALITY = 500, 375, 90  # of made pictures: those of usual photo collections


def make_pictures(folder: Path, count: int) -> None:
    """Write JPEG pictures of smooth colours with grain, whose files are about as large as photos of that size."""
    generator = numpy.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=numpy.uint8))
        smooth = numpy.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=numpy.float32)
        pixels = (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(numpy.uint8)
        path = folder / f"class{index % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=QUALITY)


def by_pillow(path: Path) -> object:
    with Image.open(path) as image:
        return image.convert("RGB")


def by_pillow_draft(path: Path, size: int) -> object:
    with Image.open(path) as image:
        image.draft("RGB", (size, size))
        return image.convert("RGB")


def decoders(size: int) -> dict[str, Callable[[Path], object]]:
    preprocessing = ImagePreprocessing.of(size)
    return {
        "Pillow": by_pillow,
        "Pillow, draft": lambda path: by_pillow_draft(path, size),
        "torchvision": lambda path: decode_image(str(path), ImageReadMode.RGB),
        "lctprune": lambda path: read_image(path, preprocessing),
    }


def transforms(size: int) -> dict[str, Callable[[Path], object]]:
    """Return ways from a file to a random square, uint8."""
    changes = RandomChanges(ImagePreprocessing.of(size), Augmentation(crop=1, flip=True))
    crop, flip = v2.RandomResizedCrop((size, size), scale=(LEAST_AREA, 1), antialias=True), v2.RandomHorizontalFlip()
    return {
        "Pillow": lambda path: numpy.asarray(flip(crop(by_pillow(path)))),
        "torchvision": lambda path: flip(crop(decode_image(str(path), ImageReadMode.RGB))),
        "lctprune": lambda path: changes.apply(torch.from_numpy(read_image(path, changes.preprocessing)), 0),
    }


def loaders(folder: Path, paths: list[Path], size: int, batch_size: int, workers: int) -> dict[str, Loader]:
    """Return each loader as a function from the number of a pass to its batches."""
    from timm.data.dataset_factory import create_dataset  # of the extra of that name
    from timm.data.loader import create_loader

    preprocessing = ImagePreprocessing.of(size)
    readers = ImageReaders(RandomChanges(preprocessing, Augmentation(crop=1, flip=True)), workers)
    targets = torch.zeros(len(paths), dtype=torch.int64)
    own = FolderSplit(paths, targets, IMAGENET, preprocessing=preprocessing, readers=readers)
    loader = create_loader(
        create_dataset("", str(folder)),
        input_size=(3, size, size),
        batch_size=batch_size,
        is_training=True,
        scale=(LEAST_AREA, 1.0),
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=workers,
        use_prefetcher=False,  # it needs CUDA
        persistent_workers=workers > 0,
    )
    return {"timm": lambda _: loader, "lctprune": lambda seed: own.shuffled(batch_size, seed=seed)}


def packed_loaders(paths: list[Path], folder: Path, size: int, batch_size: int, workers: int) -> dict[str, Loader]:
    """Return this package's loader of single files, and of the same in WebDataset's tar files and in Parquet files."""
    import pyarrow.parquet  # of the extra parquet

    images, labels = [path.read_bytes() for path in paths], [index % 2 for index in range(len(paths))]
    for name in ("tar", "parquet"):
        (folder / name).mkdir(exist_ok=True)
    with tarfile.open(folder / "tar" / "0.tar", "w") as tar:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            for ending, content in (("jpg", image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{index:06}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": labels}), folder / "parquet" / "0.parquet")
    preprocessing = ImagePreprocessing.of(size)
    found: dict[str, Sequence[ImageSource]] = {"files": paths}
    found["tar"] = PackedImages([read_tar(folder / "tar" / "0.tar").shard])
    found["parquet"] = PackedImages(image_shards([folder / "parquet" / "0.parquet"], "parquet", "image"))

    def loader(sources: Sequence[ImageSource]) -> Loader:
        readers = ImageReaders(RandomChanges(preprocessing, Augmentation(crop=1, flip=True)), workers)
        split = FolderSplit(sources, torch.tensor(labels), IMAGENET, preprocessing=preprocessing, readers=readers)
        return lambda seed: split.shuffled(batch_size, seed=seed)

    return {name: loader(sources) for name, sources in found.items()}


def training_step(size: int, width: int) -> Callable[[Tensor], object]:
    """Return a step of backpropagation on a batch, by SGD, with the channels last, whoever made the batch."""
    torch.manual_seed(0)
    model = build_model(NetworkConfig(model="resnet18", model_args={"width": width}, image_size=size)).train()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(inputs: Tensor) -> None:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        loss = nn.functional.cross_entropy(model(inputs), torch.zeros(len(inputs), dtype=torch.int64))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def repeated(inputs: Tensor, count: int) -> Loader:
    """Return the same batch again and again, which takes no time."""

    def batches(_: int) -> Iterator[Sequence[Tensor]]:
        return itertools.repeat((inputs,), count)

    return batches


def in_turns(ways: dict[str, Callable[[int], int]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the images per second of each way in each turn, after one pass that does not count."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = clock()
            count = run(turn)
            if turn:
                rates[name].append(count / (clock() - start))
    return rates


def show(title: str, rates: dict[str, list[float]], than: str) -> None:
    print(f"\n{title}")
    for name, each in rates.items():
        ratios = [own / other for own, other in zip(each, rates[than], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"  {name:14} {statistics.median(each):8.0f} images/s  {statistics.median(ratios):5.2f} x {than} ({spread})"
        )


def files_of(folder: Path, most: int) -> list[Path]:
    paths = sorted(folder.glob("*/*.jpg"))
    return paths[:: max(1, len(paths) // most)][:most]


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    paths = files_of(folder, arguments.images)
    with Image.open(paths[0]) as image:
        shape = "x".join(map(str, image.size))
    each_file = {
        "one thread, decoding": decoders(arguments.image_size),
        f"one thread, from a file to a random square of {arguments.image_size}": transforms(arguments.image_size),
    }
    print(f"{len(paths)} JPEG files, the first of {shape}")
    for title, ways in each_file.items():
        passes = {name: _pass_over(paths, way) for name, way in ways.items()}
        show(title, in_turns(passes, arguments.repeats, time.process_time), "Pillow")
    if arguments.loaders:
        every = sorted(folder.glob("*/*.jpg"))
        for workers in arguments.workers:
            own = loaders(folder, every, arguments.image_size, arguments.batch_size, workers)
            passes = {name: _pass_of(way, arguments.batch_size) for name, way in own.items()}
            title = f"loaders, {workers} workers, batches of {arguments.batch_size} of {arguments.image_size} pixels"
            show(title, in_turns(passes, arguments.repeats, time.perf_counter), "timm")
            for width in arguments.step_widths:
                step = training_step(arguments.image_size, width)
                alone = torch.zeros(arguments.batch_size, 3, arguments.image_size, arguments.image_size)
                fed: dict[str, Loader] = {**own, "no loader": repeated(alone, len(every) // arguments.batch_size)}
                passes = {name: _pass_of(way, arguments.batch_size, step) for name, way in fed.items()}
                title = f"training a ResNet-18 of width {width} by backpropagation, {workers} workers beside it"
                show(title, in_turns(passes, arguments.repeats, time.perf_counter), "timm")
    for workers in arguments.workers if arguments.packed else ():
        every = sorted(folder.glob("*/*.jpg"))
        with tempfile.TemporaryDirectory() as place:
            os.environ["XDG_CACHE_HOME"] = place
            own = packed_loaders(every, Path(place), arguments.image_size, arguments.batch_size, workers)
            passes = {name: _pass_of(way, arguments.batch_size) for name, way in own.items()}
            title = f"packed, {workers} workers, batches of {arguments.batch_size} of {arguments.image_size} pixels"
            clock = time.perf_counter if workers else time.process_time
            show(title, in_turns(passes, arguments.repeats, clock), "files")


def _pass_over(paths: list[Path], way: Callable[[Path], object]) -> Callable[[int], int]:
    def run(turn: int) -> int:
        for path in paths:
            way(path)
        return len(paths)

    return run


def _pass_of(
    loader: Loader, batch_size: int, step: Callable[[Tensor], object] = lambda inputs: None
) -> Callable[[int], int]:
    def run(turn: int) -> int:
        count = 0
        for inputs, *_ in loader(turn):
            step(inputs)
            count += batch_size
        return count

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="folder with train/ of one folder of JPEG files per class")
    add("--made", type=int, default=0, metavar="N", help="pictures of 500x375 pixels to make instead")
    add("--images", type=int, default=400, help="files that single threads read")
    add("--image-size", type=int, default=224, help="side of the squares, in pixels")
    add("--batch-size", type=int, default=64)
    add("--workers", type=int, nargs="+", default=[1, 2], help="of the loaders, one after the other")
    add("--step-widths", type=int, nargs="*", default=[8], help="of the networks trained on what loaders yield")
    add("--no-loaders", dest="loaders", action="store_false", help="single threads only")
    add("--no-packed", dest="packed", action="store_false", help="single files only")
    add("--repeats", type=int, default=5, help="turns that count")
    add("--quick", action="store_true", help="tiny, to see that the script works")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.made, arguments.image_size, arguments.batch_size, arguments.repeats = 8, 32, 4, 1
        arguments.workers, arguments.step_widths = [1], [8]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning, module="timm")
    warnings.filterwarnings("ignore", category=DataWarning)
    names = [name for name in VERSIONS if arguments.loaders or name != "timm"]
    print(f"{', '.join(f'{name} {version(name)}' for name in names)}, {machine()}, n = {arguments.repeats}")
    with tempfile.TemporaryDirectory() as made:
        if arguments.made:
            make_pictures(Path(made), arguments.made)
        elif arguments.data is None:
            parser.error("give --data DIR or --made N")
        measure(Path(made) if arguments.made else arguments.data / "train", arguments)


if __name__ == "__main__":
    main()
