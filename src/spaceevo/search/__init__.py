"""Decisions: Q-T score, evolution of spaces, subnet search, Pareto front; accuracies and latencies come in."""
