"""What loads and times a model, one stand-alone file per runtime, here and on devices.

A file needs nothing but the standard library, numpy and the runtime's package, in Python 3.8 or newer: its text is sent
to a device and run there. The runtimes beside this folder load and time with the same functions. A file has

    version() -> str                               ImportError: the package is not installed
    load(model, threads, **options) -> a handle    `model` is a path (or content); any error: the model is refused
    time(handle, inputs, repeats) -> [ms]          after as many that do not count, at most `WARM_UP`; `inputs` are
                                                   (name, numpy's type, shape) each, and filled with made-up values

and, where the runtime counts the time of its nodes,

    profile(model, inputs, repeats, threads, **options) -> [(node, type, layers, ms)]
                                                   arguments as of both; `layers`, joined by commas, are those of the
                                                   file that a node comprises, where the runtime tells them
"""
