"""The stages of a run, one file each: what it needs, how it is made, what it leaves. A file is a stage and its verb.

A stage is a value, `STAGE` of `spaceevo.run.stage.Stage`; the first line of the file's docstring is the help of its
verb. What it reads of other stages it names in `needs`: it is given nothing else.
"""
