"""What notebooks show: whole pages, framed."""

from __future__ import annotations

from html import escape


def framed(page: str, height: int = 700) -> str:
    """A page within another one; its styles and scripts stay its own.

    Args:
        page: Self-contained HTML.
        height: In pixels; a longer page scrolls.

    >>> framed("<p>1 &lt; 2</p>", 100)
    '<iframe srcdoc="&lt;p&gt;1 &amp;lt; 2&lt;/p&gt;" width="100%" height="100" style="border: 0"></iframe>'
    """
    return f'<iframe srcdoc="{escape(page)}" width="100%" height="{height}" style="border: 0"></iframe>'
