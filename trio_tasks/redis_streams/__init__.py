"""The broker on Redis Streams, and the connection under it.

```
broker.py          the Broker protocol, obeyed with scripts in batches
session.py         what a broker is while it is entered: its connections, and who uses which
emits.py           group commit of emits         membership.py  a worker's place in a queue
wakes.py           waiting for work              watches.py     waiting for changes of jobs
relay.py           children and dead letters on their way to other slots
misplaced.py       which key is of the wrong type, where a script cannot go on
checks.py          what a server must be         codec.py       what is stored in the keys
keys.py            every key's name and type     scripts.py     a script: source, hash, call
calls/             one typed, I/O-free wrapper per script of lua/

asking.py          how a server is asked, as a protocol: what broker and session need
link.py            one connection that is made again whenever it is lost
outage_log.py      what the log says of that     evaluation.py  EVALSHA, else EVAL
wire.py            one connection, shared by many tasks; knows nothing of jobs
login.py           being let in, and what refusals mean
transport.py       bytes: raw sockets, TLS       replies.py     types of commands and replies
address.py         where a server is

sentinel.py        asks Sentinels where it is    sentinel_address.py  their URLs
cluster_broker.py  the broker on a cluster: one session with all of its nodes
cluster.py         asks the node that has a key  cluster_address.py   their URLs, and slots
topology.py        which node has which slot     slot_link.py   a link to wherever a slot is

blocking_broker.py   what a Producer asks of a server, for threads
blocking.py          its connections, kept and made again
blocking_connection.py  one of them              blocking_sentinel.py  asks Sentinels for it
```

This package imports nothing by itself: its pure modules must stay free of I/O.
"""
