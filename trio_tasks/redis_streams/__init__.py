"""The broker on Redis Streams, and the connection under it.

```
broker.py      the Broker protocol, obeyed with scripts in batches
scripts.py     one typed, I/O-free wrapper per script of lua/
keys.py        every key's name and type          codec.py   what is stored in them
wire.py        one connection, shared by many tasks; knows nothing of jobs
transport.py   bytes: raw sockets, TLS            replies.py the types of commands and replies
address.py     where a server is and how to be let in

sentinel.py    asks Sentinels where it is now      sentinel_address.py  their URLs
cluster.py     asks the node that has a key        cluster_address.py   their URLs, and the slots
cluster_broker.py  the broker on a cluster: one session with all of its nodes
```

This package imports nothing by itself: its pure modules must stay free of I/O.
"""
