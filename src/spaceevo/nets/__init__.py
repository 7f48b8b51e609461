"""Torch modules: elastic networks, learned fake quantization, extraction of integer graphs."""
