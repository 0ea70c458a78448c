"""Annotated cases: lists of them, checks, splits and folds."""
