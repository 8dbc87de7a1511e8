"""The daemon's loop: it plans the runs that are due, marks lost runs, and reloads the calendar."""
