"""spaceevo: find, train and export the INT8 image classifiers that your device runs best."""
