"""Reports: figures, forecasts, charts, and rendering as Markdown, HTML and JSON. What a figure means is in `checks`."""
