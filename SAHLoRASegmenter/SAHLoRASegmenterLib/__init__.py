"""Parts of the module SAHLoRASegmenter."""
