"""Pictures of a network: its architecture, its layers' data flow and its cost, from a config; attention maps, from a run.

Everything here needs matplotlib (`pip install 'scalablevit-ref[plot]'`), which `import scalablevit_ref` never loads.
"""

from __future__ import annotations

from pathlib import Path

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.drawing.architecture import architecture
from scalablevit_ref.drawing.cost_chart import cost_chart
from scalablevit_ref.drawing.layers import layer_diagram
from scalablevit_ref.drawing.render import drawn
from scalablevit_ref.drawing.style import check_picture, save, themed


def draw(
    config: ScalableViTConfig,
    path: Path | str,
    *,
    name: str,
    image_size: tuple[int, int] = (224, 224),
    layer: str | None = None,
    cost: bool = False,
    theme: str = "light",
) -> str:
    """Write a picture of a network, which is told from its config alone; returns the picture's alternative text.

    path: ends in .svg, .png or .pdf. name: what the picture calls the network; for "small", "base" and "large" the chart of the
    cost has the authors' figures too.
    image_size: pixels, (height, width).
    layer: one layer's data flow (`stages.0.1.attn`; `layers.layer_diagram` has the names) in place of the whole architecture.
    cost: the parameters and multiply-adds of each stage and kind of layer in place of the architecture.
    theme: "light" or "dark".

    Raises ValueError for a layer, an image size, a theme or an ending that does not fit, and for a layer together with the cost;
    ModuleNotFoundError without matplotlib; OSError where the file cannot be written.
    """
    path = Path(path)
    check_picture(path, theme)
    if layer is not None and cost:
        raise ValueError(f"a picture shows the cost or a layer, got both: {layer!r}")
    with themed(theme) as colors:
        if layer is not None:
            diagram = layer_diagram(config, layer, image_size, name=name)
        else:
            diagram = (cost_chart if cost else architecture)(config, image_size, name=name)
        save(drawn(diagram, colors), path, title=diagram.title, alt=diagram.alt)
    return diagram.alt
