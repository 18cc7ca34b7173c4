"""Two other published networks of the name ScalableViT, written with the same ops: what those packages really compute."""

from scalablevit_ref.dialects import flax_port, networks, vit_pytorch

__all__ = ["flax_port", "networks", "vit_pytorch"]
