"""Parts of the module SAHLoRATrainer."""
