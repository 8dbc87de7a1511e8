"""Notices: what happened is decided into incidents, incidents into rows of notices, and rows are delivered to channels.

Rows come first: nothing is lost while a channel is down, and the node that claims a row delivers it.
"""
