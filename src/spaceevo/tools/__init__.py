"""What is done with networks, cells and targets, inside the stages of a run and beside them."""
