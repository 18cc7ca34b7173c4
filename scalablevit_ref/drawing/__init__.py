"""Pictures of a network from a config: its architecture, its layers' data flow, its cost; and attention maps, from a run.

Everything here needs matplotlib (`pip install 'scalablevit-ref[plot]'`), which `import scalablevit_ref` never loads.
"""

from __future__ import annotations

from pathlib import Path

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.drawing.idea import idea_of_both
from scalablevit_ref.drawing.layer_pictures import layer_diagram
from scalablevit_ref.drawing.network_pictures import architecture, cost_chart
from scalablevit_ref.drawing.render import save
from scalablevit_ref.drawing.style import check_picture
from scalablevit_ref.files.writing import check_outputs


def draw(
    config: ScalableViTConfig,
    path: Path | str,
    *,
    name: str,
    image_size: tuple[int, int] = (224, 224),
    layer: str | None = None,
    cost: bool = False,
    idea: bool = False,
    theme: str = "light",
    force: bool = False,
) -> str:
    """Write a picture of a network's architecture, which is told from its config alone; returns its alternative text.

    Parameters
    ----------
    config
        The network's.
    path
        Ends in .svg, .png or .pdf.
    name
        What the picture calls the network; for "small", "base" and "large" the chart of the cost has the authors' figures too.
    image_size
        Pixels, (height, width).
    layer
        One layer's data flow (`stages.0.1.attn`; `layer_pictures.layer_diagram` has the names) in place of the architecture.
    cost
        The parameters and multiply-adds of each stage and kind of layer in place of the architecture.
    idea
        What one token of the first stage attends to, in IWSA and in SSA, in place of the architecture.
    theme
        "light" or "dark".
    force
        Overwrite an existing file, as `sv.save_checkpoint` does.

    Returns
    -------
    str
        The alternative text.

    Raises
    ------
    ValueError
        For a layer, an image size, a theme or an ending that does not fit, and for two of layer, cost
        and idea at once.
    FileExistsError
        Unless `force`.
    ModuleNotFoundError
        Without matplotlib.
    OSError
        Where the file cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from scalablevit_ref import variant
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "digits.svg"
    ...     text = draw(variant("digits"), path, name="digits", image_size=(112, 112))
    >>> text[:62]
    'ScalableViT digits, 204,102 parameters, 18.01 M multiply-adds,'
    """
    check_picture(Path(path), theme)
    check_outputs([path], force=force)
    if (layer is not None) + cost + idea > 1:
        asked = [word for word, given in (("the cost", cost), ("the idea", idea), (repr(layer), layer is not None)) if given]
        raise ValueError(f"a picture shows one thing, a layer, the cost or the idea, got {' and '.join(asked)}")
    if layer is not None:
        diagram = layer_diagram(config, layer, image_size, name=name)
    else:
        kind = cost_chart if cost else idea_of_both if idea else architecture
        diagram = kind(config, image_size, name=name)
    save(diagram, path, theme=theme, force=force)
    return diagram.alt
