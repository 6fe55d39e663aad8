"""List the images of packed data: where each lies, its class and its split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.images.listing import ImageListing
from lctprune.data.images.splits import divided, is_cut
from lctprune.data.packed.arrow_images import image_shards
from lctprune.data.packed.kinds import PackedKind, read_labels
from lctprune.data.packed.labels import Labels, numbered_classes
from lctprune.data.packed.shards import Shards
from lctprune.data.packed.tar_shards import read_tar
from lctprune.data.packed_samples import PackedImages, Shard


def list_arrow(shards: Shards, found: PackedKind, config: DataConfig) -> ImageListing:
    """List the images in a column of Parquet or Arrow files.

    Raises:
        DataError: a file cannot be read; or an image or a label is missing, or a class is too small.
    """
    labels = read_labels(shards, found)
    classes, targets = numbered_classes(shards.root, labels, found.classes)
    images = {split: image_shards(shards.splits[split], shards.kind, found.column) for split in targets}
    return _listing(shards, images, targets, classes, config)


def list_tars(shards: Shards, config: DataConfig) -> ImageListing:
    """List the images in tar files of WebDataset.

    Raises:
        DataError: a file is damaged; or a label is missing, or a class is too small.
    """
    found = {split: [read_tar(path, config.target) for path in paths] for split, paths in shards.splits.items()}
    labels = {split: Labels.of([label for each in tars for label in each.labels]) for split, tars in found.items()}
    classes, targets = numbered_classes(shards.root, labels)
    images = {split: [each.shard for each in found[split]] for split in targets}
    return _listing(shards, images, targets, classes, config)


def _listing(
    shards: Shards,
    images: Mapping[str, Sequence[Shard]],
    targets: Mapping[str, Tensor],
    classes: tuple[str, ...],
    config: DataConfig,
) -> ImageListing:
    parts = {split: (PackedImages(each), targets[split]) for split, each in images.items()}
    divisions = divided(shards.root, parts, config, classes)
    sizes = {split: [each.sizes for each in found] for split, found in images.items()}
    return ImageListing(classes, *divisions, packed_fingerprint(shards, classes, targets, sizes), is_cut(parts))


def packed_fingerprint(
    shards: Shards,
    classes: Sequence[str],
    targets: Mapping[str, Tensor],
    contents: Mapping[str, Iterable[Tensor | bytes]],
) -> str:
    """Return a hash of the files' names, the classes, the labels, and what is given of the samples of each split."""
    found = hashlib.sha256("\n".join(classes).encode(errors="surrogateescape"))
    for split, labels in sorted(targets.items()):
        names = [shards.name_of(path) for path in shards.splits[split]] if shards.root.is_dir() else [""]
        found.update(f"\n{split} {names}\n".encode(errors="surrogateescape"))
        found.update(labels.numpy().tobytes())
        for content in contents[split]:
            found.update(content if isinstance(content, bytes) else content.numpy().tobytes())
    return found.hexdigest()
