"""What executes an architecture: one file per runtime.

A runtime is a module, without torch, with

    SUFFIX: str                                      suffix of its files, for example ".onnx"
    version() -> str                                 version of the runtime
    w_qmax(machine, flags) -> int                    largest weight code that is exact on that processor
    export_int8(graph: IntegerGraph, path, metadata) write the INT8 model; nothing is calibrated again
    export_fp32(graph: FloatGraph, path, metadata)   write its FP32 twin in the form that is fastest there
    float_operators(path) -> tuple[str, ...]         what the runtime would still compute in float
    Session(path, threads=1)                         .run(images) -> logits, .time(repeats) -> [ms]
    profile(path, repeats, threads=1) -> {operator: ms}

Exports are atomic: a file that exists is complete. A file that cannot be loaded is an `ArtifactError`.
`random_graphs` makes graphs of architectures that are not trained; it is no runtime.
"""
