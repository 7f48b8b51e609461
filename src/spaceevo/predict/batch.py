"""Predict many subnets of one search space at once: a table of every block in every place it may have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spaceevo.errors import EncodingError
from spaceevo.graph.nodes import HEAD, Program
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.spaces.encoding import decode, words
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Stage, Subnet, block_program, network_program

ABSENT = -1
_LETTERS = list("dkwer")  # of the fields of an encoding


class BatchPredictor:
    """Latencies of the subnets of a search space, looked up.

    A subnet is a row of integers: the index of its resolution, then for every stage as many places as its largest
    depth, each with the index of a block among `ElasticStage.blocks()`, or `ABSENT` beyond the stage's depth.

    Args:
        predictor: Additive over blocks, so the looked-up latencies are its own.
        space: Whose subnets are to be predicted.

    Raises:
        TargetError: The space has an operator of a kind that was not measured at all.
    """

    def __init__(self, predictor: LatencyPredictor, space: SearchSpace) -> None:
        self.space = space
        self.base_ms = predictor.base_ms
        self.depths = tuple(stage.depths[-1] for stage in space.stages)
        self._numbers = [{block: number for number, block in enumerate(stage.blocks())} for stage in space.stages]
        # The same by what `encode` writes, which is read without making numbers of it.
        self._words = [
            {words(block): number for block, number in numbers.items() if not block.added} for numbers in self._numbers
        ]
        self._depths = [{str(depth): depth for depth in stage.depths} for stage in space.stages]
        self._resolutions = {str(resolution): number for number, resolution in enumerate(space.resolutions)}
        self._widths = [
            np.array([stage.widths.index(block.width) for block in stage.blocks()], np.int32) for stage in space.stages
        ]
        programs, shapes = self._programs()
        predictor.prepare(node for program in programs for node in program)
        latencies = np.array([predictor.blocks_ms(program) for program in programs])
        outside = np.array([predictor.num_extrapolated(program) for program in programs], np.int32)
        start = 0
        tables = []
        for shape in shapes:
            stop = start + int(np.prod(shape))
            tables.append((latencies[start:stop].reshape(shape), outside[start:stop].reshape(shape)))
            start = stop
        self._input, self._head = tables[0], tables[-1]
        # Per stage: of the first block and of those after it, [resolution, width before, block].
        self._stages = [(tables[i], tables[i + 1]) for i in range(1, len(tables) - 1, 2)]

    @property
    def num_columns(self) -> int:
        """Integers per subnet."""
        return 1 + sum(self.depths)

    def latencies_ms(self, rows: np.ndarray) -> np.ndarray:
        """Latencies, in ms.

        Args:
            rows: Integers [num_subnets, num_columns].
        """
        return self.base_ms + self._sum(rows, 0)

    def num_extrapolated(self, rows: np.ndarray) -> np.ndarray:
        """Per subnet how many of its operators lie outside what was measured."""
        return self._sum(rows, 1)

    def rows(self, subnets: Sequence[Subnet]) -> np.ndarray:
        """Subnets as rows of integers.

        Raises:
            EncodingError: One is not in the space.
        """
        resolutions = {resolution: number for number, resolution in enumerate(self.space.resolutions)}
        found = np.full((len(subnets), self.num_columns), ABSENT, np.int32)
        for row, subnet in enumerate(subnets):
            if not self.space.contains(subnet):
                raise EncodingError(f"A subnet is not in {self.space.encoding}", found=f"Number {row} of the batch")
            found[row, 0] = resolutions[subnet.resolution]
            column = 1
            for numbers, stage, depth in zip(self._numbers, subnet.stages, self.depths, strict=True):
                found[row, column : column + len(stage.blocks)] = [numbers[block] for block in stage.blocks]
                column += depth
        return found

    def decode(self, encodings: Sequence[str]) -> np.ndarray:
        """Subnets' published strings as rows of integers.

        Raises:
            EncodingError: One is malformed, or not in the space.
        """
        rows = np.empty((len(encodings), self.num_columns), np.int32)
        for number, encoding in enumerate(encodings):
            try:
                rows[number] = self._row(encoding)
            except (KeyError, ValueError):  # not as `encode` writes it: another way to write a number, or wrong
                rows[number] = self.rows([decode(encoding, self.space)])
        return rows

    def subnet(self, row: np.ndarray) -> Subnet:
        """The subnet of a row of integers."""
        stages: list[Stage] = []
        column = 1
        for elastic, depth in zip(self.space.stages, self.depths, strict=True):
            own = [number for number in row[column : column + depth].tolist() if number != ABSENT]
            stages.append(elastic.stage(tuple(elastic.blocks()[number] for number in own)))
            column += depth
        return self.space.subnet(self.space.resolutions[int(row[0])], tuple(stages))

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Random subnets as rows, drawn as `SearchSpace.sample` draws."""
        rows = np.full((count, self.num_columns), ABSENT, np.int32)
        rows[:, 0] = rng.integers(len(self.space.resolutions), size=count)
        column = 1
        for elastic, depth in zip(self.space.stages, self.depths, strict=True):
            drawn = rng.integers(len(elastic.blocks()), size=(count, depth))
            depths = rng.choice(np.array(elastic.depths), size=count)
            rows[:, column : column + depth] = np.where(np.arange(depth) < depths[:, None], drawn, ABSENT)
            column += depth
        return rows

    def _row(self, encoding: str) -> list[int]:
        parts = encoding.split("_")
        if [part[:1] for part in parts] != _LETTERS:
            raise ValueError(encoding)
        depths, *fields, (resolution,) = [part[1:].split("#") for part in parts]
        words = list(zip(*fields, strict=True))
        row, start = [self._resolutions[resolution]], 0
        for numbers, known, word, deepest in zip(self._words, self._depths, depths, self.depths, strict=True):
            stop = start + known[word]
            row += [numbers[block] for block in words[start:stop]]
            row += [ABSENT] * (start + deepest - stop)
            start = stop
        if start != len(words):
            raise ValueError(encoding)
        return row

    def _sum(self, rows: np.ndarray, which: int) -> np.ndarray:
        if rows.ndim != 2 or rows.shape[1] != self.num_columns:
            raise EncodingError(
                "Rows of subnets have another form", found=f"{rows.shape}, expected [any number, {self.num_columns}]"
            )
        resolution = rows[:, 0]
        self._check((resolution >= 0) & (resolution < len(self.space.resolutions)), "its resolution is none")
        total = self._input[which][resolution]
        width = np.zeros(len(rows), np.int32)
        column = 1
        for widths, (first, later), depth in zip(self._widths, self._stages, self.depths, strict=True):
            block = rows[:, column]
            self._check((block >= 0) & (block < len(widths)), "a stage begins without a block")
            total = total + first[which][resolution, width, block]
            width = widths[block]
            before = np.ones(len(rows), bool)
            for place in range(column + 1, column + depth):
                block = rows[:, place]
                # Depths are prefixes: what is absent adds nothing and changes no width.
                there = block != ABSENT
                self._check((before | ~there) & (block >= ABSENT) & (block < len(widths)), "a stage has a gap")
                before = there
                total += np.where(there, later[which][resolution, width, block], 0)
                width = np.where(there, widths[block], width)
            column += depth
        sums: np.ndarray = total + self._head[which][resolution, width]
        return sums

    def _check(self, fine: np.ndarray, otherwise: str) -> None:
        if not fine.all():
            number = int(np.argmin(fine))
            raise EncodingError(
                f"A row names no subnet of {self.space.encoding}", found=f"Row {number}: {otherwise} of the space"
            )

    def _programs(self) -> tuple[list[Program], list[tuple[int, ...]]]:
        """The program of every entry of every table, and the shapes of the tables."""
        space = self.space
        smallest = space.smallest().stages
        networks = [network_program(space.subnet(resolution, smallest)) for resolution in space.resolutions]
        programs = [program[:1] for program in networks]
        shapes: list[tuple[int, ...]] = [(len(space.resolutions),)]
        reads = [program[0].in_shape for program in networks]  # what a stage reads, at each resolution
        before: tuple[int, ...] = (reads[0].channels,)
        for elastic in space.stages:
            for index, widths in ((0, before), (1, elastic.widths)):
                for shape in reads:
                    for width in widths:
                        for block in elastic.blocks():
                            stage = elastic.stage((block,) * (index + 1))
                            programs.append(block_program(stage, index, shape._replace(channels=width))[1:])
                if index == 0:
                    first = elastic.stage(elastic.blocks()[:1])
                    reads = [block_program(first, 0, shape)[-1].out_shape for shape in reads]
                shapes.append((len(reads), len(widths), len(elastic.blocks())))
            before = elastic.widths
        last = space.stages[-1]
        for resolution in space.resolutions:
            for width in before:
                block = next(block for block in last.blocks() if block.width == width)
                stages = (*smallest[:-1], last.stage((block,) * last.depths[0]))
                program = network_program(space.subnet(resolution, stages))
                programs.append(tuple(node for node in program if node.role.stage == HEAD))
        shapes.append((len(space.resolutions), len(before)))
        return programs, shapes
