"""Hides rich, which only the tests' own libraries need, from the processes of maintd that tests start.

structlog imports it where it is installed. That takes a tenth of the start of a command, and no installation has it.
"""

raise ImportError("rich is not installed with maintd")
