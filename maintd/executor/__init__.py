"""Runs under way: the child process of each attempt, and the threads that supervise it."""
