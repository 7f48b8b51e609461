"""What it costs, predicted: additive over operators, fitted on whole networks, judged on unseen ones."""
