"""What reads a program operator by operator: one method per operator, so that none can be forgotten."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar, assert_never

from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import (
    Add,
    Conv,
    Depthwise,
    Gate,
    Linear,
    MaxPool,
    Multiply,
    Pool,
    Quantize,
    Relabel,
    Sigmoid,
)

V = TypeVar("V")


class Interpreter(ABC, Generic[V]):
    """Gives every operator a meaning: what it makes of the values that it reads.

    A new operator in `ops` is an error of the type checker in `apply`, and then in every subclass that is made.
    """

    def apply(self, node: Node, inputs: Sequence[V]) -> V:
        """What a node makes of the values of its inputs."""
        match node.op:
            case Conv() as op:
                return self.conv(node, op, inputs[0])
            case Depthwise() as op:
                return self.depthwise(node, op, inputs[0])
            case Add() as op:
                return self.add(node, op, inputs[0], inputs[1])
            case Multiply() as op:
                return self.multiply(node, op, inputs[0], inputs[1])
            case Gate() as op:
                return self.gate(node, op, inputs[0])
            case Sigmoid() as op:
                return self.sigmoid(node, op, inputs[0])
            case Relabel() as op:
                return self.relabel(node, op, inputs[0])
            case Pool() as op:
                return self.pool(node, op, inputs[0])
            case MaxPool() as op:
                return self.max_pool(node, op, inputs[0])
            case Linear() as op:
                return self.linear(node, op, inputs[0])
            case Quantize() as op:
                return self.quantize(node, op, inputs[0])
            case op:
                assert_never(op)

    @abstractmethod
    def quantize(self, node: Node, op: Quantize, x: V) -> V:
        """Of the program's input, or of what a convolution reads in the published placement."""

    @abstractmethod
    def conv(self, node: Node, op: Conv, x: V) -> V:
        """A dense convolution with its norm."""

    @abstractmethod
    def depthwise(self, node: Node, op: Depthwise, x: V) -> V:
        """A depthwise convolution with its norm."""

    @abstractmethod
    def linear(self, node: Node, op: Linear, x: V) -> V:
        """The logits."""

    @abstractmethod
    def pool(self, node: Node, op: Pool, x: V) -> V:
        """A global average pool."""

    @abstractmethod
    def max_pool(self, node: Node, op: MaxPool, x: V) -> V:
        """A max pool; it puts out codes of its input."""

    @abstractmethod
    def add(self, node: Node, op: Add, a: V, b: V) -> V:
        """A sum."""

    @abstractmethod
    def multiply(self, node: Node, op: Multiply, a: V, b: V) -> V:
        """A product; the second one may have one value per channel."""

    @abstractmethod
    def gate(self, node: Node, op: Gate, x: V) -> V:
        """x / 6 + 0.5 within [0, 1]."""

    @abstractmethod
    def sigmoid(self, node: Node, op: Sigmoid, x: V) -> V:
        """The logistic function."""

    @abstractmethod
    def relabel(self, node: Node, op: Relabel, x: V) -> V:
        """The same codes at another scale: a hard sigmoid."""
