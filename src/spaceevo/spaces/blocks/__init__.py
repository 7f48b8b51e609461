"""One file per block type.

A block type is a module with one function

    declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature

that puts named layers on the tracer and returns the block's output. It must name its layers alike for all specs:
a supernet holds, for each name, the largest operator over all specs.
"""
