"""Charts, tables and forecasts for reports; pure functions that jobs use."""
