"""What all figures share: look, colours, small data, sliders, and words for those who cannot see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

SEQUENTIAL = "Cividis"
DIVERGING = "RdBu"  # blue is positive; drawn with cmid = 0, readable for the colour-blind
LEVELS = 255


def finish(figure: go.Figure, alt: str, height: int, min_width: int | None = None) -> go.Figure:
    """Apply the common layout and the alternative text (what the figure shows and what to see in it)."""
    if not alt.strip():
        raise ValueError("a figure without alternative text: say in a sentence or two what it shows")
    meta = {"alt": alt} | ({"min_width": min_width} if min_width else {})
    figure.update_yaxes(automargin=True)  # long words need room
    return figure.update_layout(template="none", height=height, margin={"t": 40, "b": 60, "l": 70, "r": 20}, font={"size": 13}, meta=meta)


def unsigned(values: np.ndarray, limit: float) -> np.ndarray:
    """Values from 0 to ``limit`` as bytes from 0 to 255: a tenth of the size on the page, no visible difference."""
    return np.rint(np.clip(np.asarray(values, float) / limit, 0, 1) * LEVELS).astype(np.uint8)


def signed(values: np.ndarray, limit: float) -> np.ndarray:
    """Values from -``limit`` to ``limit`` as signed bytes from -127 to 127."""
    return np.rint(np.clip(np.asarray(values, float) / limit, -1, 1) * 127).astype(np.int8)


def colorbar(limit: float, levels: int, title: str, diverging: bool = False) -> dict:
    """A colour bar whose ticks name the values that the quantised levels stand for."""
    ticks = np.linspace(-1 if diverging else 0, 1, 5)
    return {
        "title": {"text": title},
        "tickvals": list(ticks * levels),
        "ticktext": [f"{tick * limit:.2g}" for tick in ticks],
        "len": 0.9,
        "thickness": 14,
    }


def frame_slider(labels: Sequence[str], prefix: str, active: int = 0) -> dict:
    """A slider that jumps to the frame of each label (frames must bear the labels as names)."""
    jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": label, "method": "animate", "args": [[label], jump]} for label in labels]
    return {"active": active, "currentvalue": {"prefix": prefix}, "steps": steps, "pad": {"t": 40}}


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Axis labels, one for each token: numbered where a token stands more than once, as axes merge equal labels."""
    return [token if list(tokens).count(token) == 1 else f"{token} ·{position}" for position, token in enumerate(tokens)]
