"""The Python face: what `import spaceevo` gives, one small object per thing that people work with."""
