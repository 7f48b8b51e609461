"""The report: records in, one self-contained HTML file or one table in the terminal out.

- `data`: everything that the page shows, in one record;
- `words`: numbers as people read them, and the sentences derived from them;
- `figures`: per plot the numbers (plain values, no plotly) and the drawing (a plotly figure);
- `html`: the page; `console`: the table at the end of a run.

Nothing is imported here, so that `spaceevo.report.console` needs rich alone.
"""
