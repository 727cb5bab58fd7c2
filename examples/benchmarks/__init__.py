"""This engine beside its peers, measured in one run: `python -m examples.benchmarks`.

- `systems.py`: what is compared, each with what it needs and how it is configured
- `peers/`: one script a system; all do the same, see `peers/harness.py`
- `environments.py`: an environment of its own for each peer, in a cache directory
- `server.py`: a fresh server for each measurement, and its counters
- `measures.py`: what is measured
- `running.py`: one measurement: server, processes, reports
- `sharing.py`: the same with several workers on one queue
- `resting.py`: what a worker costs that has no work
- `growing.py`: what a job of this engine costs when there is much else
- `starting.py`: how long this engine takes to begin
- `rounds.py`: the order: interleaved, so that a busy minute falls on all
- `results.py`, `tables.py`, `plot.py`: medians, Markdown, and the plot

Programs of their own, about this engine alone:

- `waiting.py`: how long jobs lie at a busy worker before they start or are given back
- `prompt.py`: what a busy worker still does after pause, cancel, a higher priority, a stop
"""
