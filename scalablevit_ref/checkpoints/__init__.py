"""Named arrays to a network's parameters and back: load, save, convert, layouts; of the official network and of the dialects."""

from scalablevit_ref.checkpoints.load import Checkpoint, from_state_dict, load_checkpoint, load_port, to_state_dict
from scalablevit_ref.checkpoints.save import save_checkpoint
from scalablevit_ref.errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "from_state_dict", "load_checkpoint", "load_port", "save_checkpoint", "to_state_dict"]
