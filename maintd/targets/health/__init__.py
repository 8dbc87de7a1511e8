"""What is asked of each kind of target in a health check, and what is expected of the answers.

Each module has facts (frozen); `look`, which gets them and may run in a thread of its own; limits, with defaults that
are right for production; and `judge`, which turns facts into checks and measures and asks nothing any more.
"""
