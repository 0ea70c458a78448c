"""Training: slices from annotated cases, augmentation, presets, the loop, pre-training."""
