"""Programs for the type checkers: good ones that must pass, wrong ones that must not.

pyright checks all of them in strict mode. Each wrong line carries the `# pyright: ignore[rule]`
that it expects, and an ignore that is not needed is an error, so a wrong program that is suddenly
accepted fails the check. mypy --strict checks the good ones. `tests/test_typing_programs.py`
imports the good ones, so that what they register is registered.
"""
