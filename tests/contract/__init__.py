"""The Broker contract, tested on every broker. Where the design's invariants are looked after:

1, 2    after every test, by the worlds (`defects`), and the differential machine
3, 4    test_fencing             5, 6   test_release, test_leases
8, 9    test_outcomes            10     test_requeue
11      test_emit                12, 13 test_debounce
14      test_schedules           15     test_pause
16      test_children            17     test_cancel
18      test_emit (the instant comes with the delivery; the Processor compares)
21, 22  test_take                23, 24 test_leases
25, 26  test_release (what a broker owes to a stop)
27      test_watch, test_retention
28, 29  test_outcomes            30     test_retention, and the leak check of `redis_world`
"""
