"""The workbench: commands that turn files into files, run as `python -m utils.<name>`."""
