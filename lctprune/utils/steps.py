"""Say how far long work is, by the logger `lctprune.steps`: nothing is shown unless a program listens to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

STEPS = logging.getLogger("lctprune.steps")

Item = TypeVar("Item")


def stepping(items: Iterable[Item], describe: Callable[[Item], str], *, count: int) -> Iterator[Item]:
    """Pass items on; of several, log before each what is done with it, its number and how many there are.

    Args:
        items: items, one of which is worked on at a time.
        describe: function from an item to what is done with it, such as "Converting layer2 to int8".
        count: number of items.
    """
    for number, item in enumerate(items, 1):
        if count > 1 and STEPS.isEnabledFor(logging.INFO):
            STEPS.info("%s (%d of %d)", describe(item), number, count)
        yield item
