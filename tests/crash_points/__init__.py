"""Crash points: request k of a scenario is lost, or its answer, or the process dies there; each k.

```
line.py               carries requests and fails one of them
scenario.py           a program that uses every method of a broker, step by step, and can go on
                      where it was cut off
test_crash_points.py  every k on the MemoryBroker in virtual time, a sample on a real server
```
"""
