"""Endurance test: real daemons, an accelerated calendar and random faults, followed by an audit.

    make endurance MINUTES=30 SEED=7

The seed determines everything except the exact timing. What the daemons recorded is in the store. What really happened
is in a journal to which each job process appends, outside of maintd. The audit compares the two.
"""
