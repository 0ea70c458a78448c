"""Base models and adapters as files: card, header, tensors, network, and which are installed."""
