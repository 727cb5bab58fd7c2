"""What happens by the clock: cron ticks, and children that a dead worker left on their way.

```
cron.py       one queue's schedules: declare, tick
scheduler.py  one cron and one relay for each served queue
```
"""
