"""Stands in for slicer.i18n: every text is shown in its source language."""


def tr(text: str) -> str:
    return text


def translate(context: str, text: str) -> str:
    return text
