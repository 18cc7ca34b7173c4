"""Right descriptions that the author of a mistake did not think of.

A cause is judged by an expression that was written with the mistake, before anything was said of it. Where what is said does
not fit it, the text was read beside the mistake; if it is right, an expression for it stands here, and the page counts such causes
apart.
"""

from __future__ import annotations

from collections.abc import Mapping

READ: Mapping[tuple[str, str], str] = {
    ("flax_nnx", "the last stage's windows are half as large"): r"each query sees only its own token",
    ("torch_functional", "sines of the position are added after the stem"): r"norm's output \+ constants",
    ("torch_hf", "every image is standardised by its own mean and deviation"): r"mean over .* of the images.* / \(std over",
    ("torch_hf", "windows take every second row, as of a grid, in the second stage"): r"of the rows every 2nd",
    ("torch_hf", "probabilities are divided by the number of heads"): r"attention's output is multiplied by (0\.333|0\.25)",
    ("torch_hf", "the reduction is normed before its channels are scaled: other shapes"): r"GELU of what reduction\.1 gives",
    ("torch_hf", "the last stage's layers are post-norm"): r"a norm over the channels of \(what .* \+ the attention's output\)",
    ("torch_hf", "the mean leaves out the first token, as if it were [CLS]"): r"all tokens but the first are averaged",
    ("torch_hf", "two: softmax with base two, and the position encoding gates the map"): r"what proj\.0 gives times what stages",
    ("torch_hf", "two: values lose their mean, and the local convolution's map is a view"): r"v − \(mean over the tokens of v\)",
    ("torch_research", "keys and values are taken from windows with a halo of one token"): r"a row and a column around each window",
    ("torch_research", "the last window of the map is lost"): r"attention's output is not added",
    ("torch_research", "two: a halo for keys and values, and the last window lost"): (
        r"a row and a column around each window|attention's output is not added"
    ),
    ("torch_research", "the two branches are those of a reversible net, whose streams are averaged"): (
        r"attention's output is multiplied by 1/2 and the MLP's output is multiplied by 1/2"
    ),
    ("torch_research", "the keys' bias stands where the values' belongs, where their lengths are equal"): r"v = [^;]* \+ fn\.b_k",
    ("torch_research", "two: the position encoding runs twice, and the keys' bias for the values'"): r"v = [^;]* \+ fn\.b_k",
    ("torch_research", "a global response normalisation of the hidden units, as in ConvNeXt V2"): (
        r"gelu of fc1's output\) × \(y / \(mean over the channels of y.*vector norm over the rows and the columns"
    ),
    (
        "torch_research",
        "attention's output convolution runs behind the MLP once more in the last stage",
    ): r"fc2's output convolved with",
    ("torch_research", "a cosine classifier"): r"mean over the rows and the columns.* / y\) .*vector norm over the channels",
    ("torch_research", "two: half-step residuals, and a cosine classifier"): (
        r"mean over the rows and the columns.* / y\) .*vector norm over the channels"
    ),
    ("torch_research", "the position encoding stands between attention and MLP of the first block"): (
        r"convolved with \(fn\.weight of pos_block|MLP's output is missing|what stages\.0\.0\.mlp gives \+ what pos_block\.0 gives"
    ),
    ("torch_research", "unfolded channels are cut as if the window's tokens came before q, k and v"): (
        r"\(a part of qkv's output\) · \(a part of qkv's output\)"
    ),
    ("torch_hf", "values are of the scaled width too, as in the authors' first version: other shapes"): (
        r"the softmax · proj's output\) · dense\.weight"
    ),
    ("jax_pure", "vmap_over_tokens_for_heads"): r"each query sees only its own token",
    ("jax_pure", "values_merged_in_fortran_order"): r"H and W are swapped",
    ("jax_pure", "heads_scattered_out_of_bounds"): r"every number is 0|a part of the softmax \(the first of the heads",
    ("jax_pure", "position_without_its_shortcut"): r"PEG has no identity",
    ("jax_pure", "second_norm_behind_the_feed_forward"): r"down\.w of stages\.0\.0\.mlp\.fc2|norm2 does not come before it",
}
"""By port and name."""
