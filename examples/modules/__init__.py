"""An application whose handlers live in several files: run `python -m examples.modules`."""
