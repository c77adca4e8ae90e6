"""Group sizes of weights by layer, found by evolution under a budget of steps (after Q-DiT).

Q-DiT (arXiv 2406.17343) shares a step among neighbouring entries of a row, and searches for the
number of entries of each layer by the quality of samples. Here a candidate is judged by the error
of the model's output on calibration samples, and activations keep one step a token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipelines.q_vdit.arms import Search
from pipelines.q_vdit.samples import Whole, run
from stages.core.errors import UserError
from stages.core.seeding import seed_of
from stages.quantize.capture import Records
from stages.quantize.layers import QuantLinear, quantized
from stages.quantize.quantizers import WeightQuantizer, WeightSpec
from stages.quantize.reconstruct import weighted_error

Genome = tuple[int, ...]
"""The group size of every layer, in their order."""


class Evolution:
    """The search over one quantized model, whose quantizers it exchanges.

    Attributes:
        tried: size by layer -> error of the model's output, of every candidate that was judged.
    """

    def __init__(
        self, model: nn.Module, search: Search, records: Records, batch: int, seed: int
    ) -> None:
        """
        Raises:
            UserError: a layer's width divides by no size.
        """
        self.whole, self.records, self.batch = Whole(model), records, batch
        self.layers = quantized(model)
        self.search = search
        self.options = [_options(name, layer, search) for name, layer in self.layers.items()]
        self.made = [
            {size: _quantizer(layer, size) for size in sizes}
            for layer, sizes in zip(self.layers.values(), self.options, strict=True)
        ]
        self.budget = sum(steps(layer, search.group) for layer in self.layers.values())
        stride = max(1, len(records) // search.samples)
        self.samples = list(range(0, len(records), stride))[: search.samples]
        self.target = torch.cat([records.outputs[i] for i in self.samples])
        self.generator = torch.Generator().manual_seed(seed_of("q_vdit", "groups", seed))
        self.tried: dict[Genome, float] = {}

    def run(self) -> Genome:
        """Search, and leave the model with the best sizes.

        Raises:
            UserError: no choice of sizes keeps the budget.
        """
        count = self.search.population
        drawn = [[self._draw(len(sizes)) for sizes in self.options] for _ in range(count)]
        population = self._best([self.affordable(places) for places in drawn])
        for _ in range(self.search.generations):
            parents = population[: max(2, count // 2)]
            population = self._best(population + [self._child(parents) for _ in range(count)])
        self.use(population[0])
        return population[0]

    def cost(self, genome: Genome) -> float:
        """Steps in all."""
        return sum(
            steps(layer, size) for layer, size in zip(self.layers.values(), genome, strict=True)
        )

    def affordable(self, places: list[int]) -> Genome:
        """Sizes at these places of their lists, made larger at random until the budget is kept."""
        places = list(places)
        while self.cost(self._sizes(places)) > self.budget:
            free = [k for k, place in enumerate(places) if place + 1 < len(self.options[k])]
            if not free:
                raise UserError(
                    f"params.yaml: the sizes {self.search.sizes} of an arm of q_vdit cannot keep "
                    f"the budget of groups of {self.search.group}; add a larger size"
                )
            places[free[self._draw(len(free))]] += 1
        return self._sizes(places)

    def use(self, genome: Genome) -> None:
        """Give every layer its quantizer."""
        for layer, made, size in zip(self.layers.values(), self.made, genome, strict=True):
            layer.weights = made[size]

    def error(self, genome: Genome) -> float:
        """Mean squared error of the model's output on the samples of the search."""
        if genome not in self.tried:
            self.use(genome)
            found = run(self.whole, self.records, self.batch, self.samples).cpu()
            self.tried[genome] = float(weighted_error(found, self.target))
        return self.tried[genome]

    def _best(self, population: list[Genome]) -> list[Genome]:
        ranked = sorted(set(population), key=lambda genome: (self.error(genome), genome))
        return ranked[: self.search.population]

    def _child(self, parents: list[Genome]) -> Genome:
        """Each layer from one of two parents, and on average one of them changed."""
        first, second = (parents[self._draw(len(parents))] for _ in range(2))
        places = []
        for k, sizes in enumerate(self.options):
            size = (first, second)[self._draw(2)][k]
            changed = self._draw(len(self.options)) == 0
            places.append(self._draw(len(sizes)) if changed else sizes.index(size))
        return self.affordable(places)

    def _sizes(self, places: list[int]) -> Genome:
        return tuple(sizes[k] for sizes, k in zip(self.options, places, strict=True))

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.generator))


def steps(layer: QuantLinear, size: float) -> float:
    """Steps that a layer's weight has with groups of `size`."""
    return layer.out_features * layer.in_features / size


def _options(name: str, layer: QuantLinear, search: Search) -> list[int]:
    found = [size for size in sorted(search.sizes) if layer.in_features % size == 0]
    if not found:
        raise UserError(
            f"params.yaml: none of the sizes {search.sizes} of an arm of q_vdit divides "
            f"{layer.in_features}, the width of '{name}'"
        )
    return found


def _quantizer(layer: QuantLinear, size: int) -> WeightQuantizer:
    grid = layer.weights.grid.model_copy(update={"granularity": "group", "group": size})
    spec: WeightSpec = layer.weights.spec.model_copy(update={"grid": grid})
    target: Tensor = layer.target().detach()
    made = WeightQuantizer(spec, target)
    made.fix(made.codes(target))
    return made
