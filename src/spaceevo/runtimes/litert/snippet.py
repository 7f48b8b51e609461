"""How a file is run by who has nothing of ours: the text below this line becomes part of `predict_litert.py`."""

from ai_edge_litert.interpreter import Interpreter


def load(path):
    """(shape of the input, what gives the logits of an input)."""
    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x):
        interpreter.set_tensor(image["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(logits["index"])

    return list(image["shape"]), run
