"""Everything with gradients: teachers, block-wise distillation, supernet training, recalibration."""
