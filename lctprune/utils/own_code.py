"""Where a user's function that builds a network is imported from: a module's name, or a file's path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PATH = "PYTHONPATH"


def by_module(name: str) -> str:
    """Turn the path of a file, `folder/file.py:function`, into `file:function`, which can be imported from now on.

    The folder (of a module in a package the folder that holds the package) is put into the path of this process and of
    those that it starts. Any other name stays as it is.

    Args:
        name: name of a network.
    """
    place, _, function = name.rpartition(":")
    if not (place.endswith(".py") and Path(place).is_file()):
        return name
    path = Path(place).resolve()
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        folder, parts = folder.parent, [folder.name, *parts]
    if folder != Path.cwd().resolve():
        sys.path.insert(0, str(folder))
        os.environ[PATH] = os.pathsep.join([str(folder), *filter(None, [os.environ.get(PATH)])])
    return f"{'.'.join(parts)}:{function}"


def path_needed(name: str) -> str:
    """Return the folder of PYTHONPATH without which a module would not be found; "" where there is none.

    Args:
        name: `package.module:function`.
    """
    top = name.partition(":")[0].partition(".")[0]
    for folder in ("", *filter(None, os.environ.get(PATH, "").split(os.pathsep))):  # the current one comes first
        if Path(folder, top).is_dir() or Path(folder, f"{top}.py").is_file():
            return folder
    return ""
