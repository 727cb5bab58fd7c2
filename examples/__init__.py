"""One feature a file; each is a program that ends by itself: `python examples/quickstart.py`."""
