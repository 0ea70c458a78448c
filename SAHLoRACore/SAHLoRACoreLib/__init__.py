"""What the two modules share on Slicer's side: child process, installation, scene exchange.

Nothing here imports torch or the package ``sahlora``: all computation runs in a child process.
"""
