"""How a file is run by who has nothing of ours: the text below this line becomes part of `predict_openvino.py`."""

import openvino


def load(path):
    """(shape of the input, what gives the logits of an input)."""
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(model.input(0).shape), lambda x: model(x)[0]
