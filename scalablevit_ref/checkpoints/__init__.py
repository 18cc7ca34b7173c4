"""Checkpoints in and out: `.pth` without torch, safetensors, npz; the official names and the detection backbone's."""

from scalablevit_ref.checkpoints.load import Checkpoint, from_state_dict, load_checkpoint, to_state_dict
from scalablevit_ref.checkpoints.save import save_checkpoint
from scalablevit_ref.errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "from_state_dict", "load_checkpoint", "save_checkpoint", "to_state_dict"]
