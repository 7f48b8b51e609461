"""What a program is: operators, their tensors and the quantization contract, without torch.

A program is a tuple of `Node`s in execution order. A block's declaration makes it (`trace`); costs, features of
latency, torch modules, integer graphs and exported files are read off it, by a subclass of `Interpreter` where every
operator matters. What a program may be is `check`'s, what makes two of them the same is `identity`'s.
"""
