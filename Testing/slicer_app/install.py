"""Install the PyTorch extension and the packages into the Slicer that runs this, as a user's clicks would.

run.py starts Slicer with it until it ends with `DONE`: a new extension needs a restart.
"""

from __future__ import annotations

import importlib.util

DONE, AGAIN = 0, 3


def main() -> None:
    """Install the extension if it is missing, else the packages, and end Slicer."""
    import slicer

    if importlib.util.find_spec("PyTorchUtils") is None:
        manager = slicer.app.extensionsManagerModel()
        manager.interactive = False
        installed = manager.installExtensionFromServer("PyTorch", False)
        slicer.util.exit(AGAIN if installed else 1)
        return

    from SAHLoRACoreLib.installation import PackageInstaller, ensureInstalled

    slicer.util.infoDisplay = lambda text, *_, **__: print(text, flush=True)
    slicer.util.exit(DONE if ensureInstalled(PackageInstaller(), lambda _text: True) else 1)


if __name__ == "__main__":
    main()
