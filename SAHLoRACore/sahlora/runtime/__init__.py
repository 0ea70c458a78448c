"""What every command stands on: progress and cancel, processes and memory, files, devices."""
