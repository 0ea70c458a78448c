"""LoRA and DoRA adapters on any network of convolutions."""
