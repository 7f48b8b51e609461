"""A run: its folder, what its stages are given, and the runner that makes them in order; it knows no stage."""
