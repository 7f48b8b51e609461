"""Pictures within a page."""

from __future__ import annotations

import base64
import io

import numpy as np


def picture_url(pixels: np.ndarray) -> str:
    """A picture as a URL that holds it, for a page that fetches nothing.

    Args:
        pixels: uint8 [3, height, width].
    """
    from PIL import Image  # takes long to import

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
