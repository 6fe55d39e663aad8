"""The trainings of `peers.py`, of one seed."""

from __future__ import annotations

import argparse
import copy
import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from common import exit_accuracies, macs, trained
from peers_pruning import pruned_to, without_crash
from peers_report import ADDED, EACH, EPOCHS, OURS, TUNED, WHOLE, Measured
from torch import nn

import lctprune as lct
from lctprune.measure.group_costs import group_costs
from lctprune.models.build import build_model, fitted
from lctprune.models.images import least_resnet_width
from lctprune.workflows.members import FINETUNED


def training_macs(samples: int, trained: int, frozen: int = 0) -> int:
    """Count multiply-adds of training: three passes of what is trained, one (forward) of what is frozen."""
    return samples * (3 * trained + frozen)


class Experiment:
    """All trainings of one seed."""

    def __init__(self, arguments: argparse.Namespace, data: lct.Data, seed: int) -> None:
        self.arguments, self.data, self.seed = arguments, data, seed
        family = self.family()
        self.exit_macs = macs(family)
        whole = sum(costs.flops + costs.critic_flops for costs in group_costs(family, data.example)) // 2
        self.epoch_samples = len(data.train.targets)
        self.compute = training_macs(arguments.epochs * self.epoch_samples, whole)

    def rows(self) -> Iterator[Measured]:
        """Yield the rows of all parts that are asked for, each as it is trained."""
        epochs = self.arguments.epochs
        if "lctprune" in self.arguments.parts:
            yield from self.dense()
        if "fine-tuned" in self.arguments.parts:
            yield from self.finetuned()
        if "joint" in self.arguments.parts:
            config = self.config(epochs, method="joint")
            yield from self.measure("joint", "exit", WHOLE, self.family(), config, self.compute)
        if "pruned" in self.arguments.parts:
            yield from self.pruned()
        if "truncated" in self.arguments.parts:
            makers = {f"of exit {exit}": partial(self.truncated, exit) for exit in range(self.arguments.groups)}
            yield from self.plain("truncated", makers, self.budgets(WHOLE, EACH, EPOCHS))
        if "narrower" in self.arguments.parts:
            widths = dict.fromkeys(filter(None, map(self.width_for, self.exit_macs[:-1])))
            makers = {f"width {width}": partial(self.model, width) for width in widths}
            yield from self.plain("narrower", makers, self.budgets(WHOLE, EACH))

    def dense(self) -> Iterator[Measured]:
        """Train the run with critics, and what is added to it."""
        network, epochs = self.family(), self.arguments.epochs
        run, seconds = self.train(f"{OURS} {epochs}", network, self.config(epochs, method="local-critic"))
        yield from self.measured(OURS, "exit", WHOLE, network, epochs, self.compute, seconds)
        start = time.perf_counter()
        run = lct.densify(run, data=self.data)
        seconds, network = time.perf_counter() - start, lct.load_network(run)
        costs = group_costs(network, self.data.example)
        critics, frozen = (sum(each) // 2 for each in zip(*((c.critic_flops, c.flops) for c in costs), strict=True))
        cost = training_macs(run.epochs_done * self.epoch_samples, critics, frozen)
        added = list(self.measured(ADDED, "exit", WHOLE, network, run.epochs_done, self.compute + cost, seconds))
        yield from added[:-1]  # the last is the main network again

    def finetuned(self) -> Iterator[Measured]:
        """Spend half of the compute on a run with critics, the rest on fine-tuning all of its exits, or each."""
        network = self.family()
        epochs = max(1, round(self.arguments.epochs / 2))
        run, _ = self.train(f"{OURS} {epochs}", network, self.config(epochs, method="local-critic"))
        rest = self.compute - self.compute * epochs // self.arguments.epochs
        settings = itertools.product(
            self.budgets(WHOLE, EACH), self.arguments.finetune_distill, enumerate(self.exit_macs)
        )
        for budget, distill, (exit, own) in settings:
            share = rest / len(self.exit_macs) if budget == WHOLE else rest
            epoch = training_macs(self.epoch_samples, own, self.exit_macs[-1])
            further = max(1, round(share / epoch))
            shutil.rmtree(run.path / FINETUNED, ignore_errors=True)
            start = time.perf_counter()
            lr = self.arguments.finetune_lr
            tuned = lct.finetune(run, exit, data=self.data, epochs=further, lr=lr, distill=distill)
            seconds = time.perf_counter() - start
            cost = self.compute - rest + further * epoch
            name = f"exit {exit}, distill {distill:g}"
            yield from self.measured(TUNED, name, budget, lct.load_network(tuned), further, cost, seconds)

    def plain(
        self, method: str, makers: Mapping[str, Callable[[], nn.Module]], budgets: Iterable[str]
    ) -> Iterator[Measured]:
        """Train networks by backpropagation, each by itself."""
        for budget, (name, make) in itertools.product(budgets, makers.items()):
            network = lct.LocalCriticNetwork([without_crash(make())])
            share = self.compute / len(makers) if budget == WHOLE else self.compute
            epochs = self.arguments.epochs if budget == EPOCHS else self.affordable(share, network)
            yield from self.measure(method, name, budget, network, self.config(epochs), self.cost(epochs, network))

    def pruned(self) -> Iterator[Measured]:
        """Spend half of the compute on the main network, the rest on fine-tuning all pruned ones, or each."""
        main = lct.LocalCriticNetwork([self.model(self.arguments.width)])
        epochs = self.affordable(self.compute // 2, main)
        self.train("to be pruned", main, self.config(epochs))
        spent = self.cost(epochs, main)
        wanted = self.exit_macs[:-1]
        for variant, (exit, own) in itertools.product(self.arguments.variants, enumerate(wanted)):
            model = without_crash(pruned_to(own, copy.deepcopy(main.groups[0]), self.data.example, variant))
            for budget in self.budgets(WHOLE, EACH):
                network = lct.LocalCriticNetwork([copy.deepcopy(model)])
                rest = (self.compute - spent) / (len(wanted) if budget == WHOLE else 1)
                epochs = self.affordable(rest, network)
                config = self.config(epochs, lr=self.arguments.finetune_lr)
                cost = spent + self.cost(epochs, network)
                yield from self.measure("Torch-Pruning", f"{variant} to exit {exit}", budget, network, config, cost)

    def measure(
        self, method: str, name: str, budget: str, network: lct.LocalCriticNetwork, config: lct.TrainConfig, cost: int
    ) -> Iterator[Measured]:
        """Train, and measure every exit."""
        _, seconds = self.train(f"{method} {name} {budget}", network, config)
        yield from self.measured(method, name, budget, network, config.epochs, cost, seconds)

    def train(self, name: str, network: lct.LocalCriticNetwork, config: lct.TrainConfig) -> tuple[lct.Run, float]:
        """Train in a run directory of that name: the run and its seconds."""
        folder = self.arguments.out / f"seed-{self.seed}" / name.replace(" ", "-")
        _, run, seconds = trained(network, config, self.data, run_dir=folder)
        return run, seconds

    def measured(
        self,
        method: str,
        name: str,
        budget: str,
        network: lct.LocalCriticNetwork,
        epochs: int,
        cost: int,
        seconds: float,
    ) -> Iterator[Measured]:
        """Yield a row for every exit."""
        val, test = (exit_accuracies(network, split) for split in (self.data.val, self.data.test))
        for exit, own in enumerate(macs(network, self.data.example)):
            yield Measured(
                method=method,
                name=f"{name} {exit}" if network.critics else name,
                budget=budget,
                seed=self.seed,
                macs=own,
                epochs=epochs,
                compute=round(cost / self.compute, 4),
                val=round(val[exit], 5),
                test=round(test[exit], 5),
                seconds=round(seconds, 1),
            )

    def family(self) -> lct.LocalCriticNetwork:
        """Build the network with critics, with weights by the seed."""
        torch.manual_seed(self.seed)
        return lct.build_network(self.network_config(self.arguments.width))

    def truncated(self, exit: int) -> nn.Module:
        """Build one exit's architecture, with the weights that it has in the family."""
        return self.family().subnetwork(exit)

    def model(self, width: int) -> nn.Module:
        """Build the plain network; at the width asked for it has the weights of the family's main network."""
        torch.manual_seed(self.seed)
        return build_model(self.network_config(width))

    def network_config(self, width: int) -> lct.NetworkConfig:
        config = lct.NetworkConfig(model="resnet18", model_args={"width": width}, groups=self.arguments.groups)
        return fitted(config, self.data)

    def config(self, epochs: int, *, method: str = "backprop", lr: float | None = None) -> lct.TrainConfig:
        """Return the settings of a training: the same recipe for all methods."""
        batch_size = self.arguments.batch_size
        return lct.TrainConfig(method=method, epochs=epochs, lr=lr, batch_size=batch_size, seed=self.seed)

    def cost(self, epochs: int, network: lct.LocalCriticNetwork) -> int:
        """Count the multiply-adds of training a plain network."""
        return training_macs(epochs * self.epoch_samples, macs(network, self.data.example)[-1])

    def budgets(self, *possible: str) -> list[str]:
        """Return those budgets that are asked for."""
        return [budget for budget in possible if budget in self.arguments.budgets]

    def affordable(self, compute: float, network: lct.LocalCriticNetwork) -> int:
        """Return the epochs of a plain network that the compute pays for, rounded."""
        return max(1, round(compute / self.cost(1, network)))

    def width_for(self, budget: int) -> int | None:
        """Find the greatest width whose MACs are within the budget; None if there is none."""
        least = least_resnet_width(self.data.example.shape[-1])
        widths = range(self.arguments.width, least - 1, -1)
        return next((width for width in widths if self.model_macs(width) <= budget), None)

    def model_macs(self, width: int) -> int:
        return lct.count_flops(self.model(width), self.data.example) // 2
