"""Cross-validation: methods of adapting a model, compared on cases that no training saw."""
