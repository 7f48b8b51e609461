"""The Python face: what `import spaceevo` gives, and what the verbs of the command line call."""
