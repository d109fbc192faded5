"""The one pickle this project reads: LPIPS weights as nested numpy arrays, kept as safetensors."""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from d2it.errors import UserError

# All that an array needs, by the names that numpy 1 wrote. `_reconstruct` moved in numpy 2; every
# array names it in its own __reduce__.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of numpy arrays; anything that could run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(
                f"The weights hold {module}.{name}, which is no array: do not use them."
            )
        return ALLOWED[module, name]


def read_arrays(path: Path) -> dict[str, Any]:
    return ArrayUnpickler(io.BytesIO(path.read_bytes())).load()


def lpips_to_safetensors(source: Path, target: Path) -> None:
    """Backbone `conv<i>.weight`, `conv<i>.bias`; distance `lin<i>.weight`; all (O, I, H, W)."""
    from safetensors.numpy import save

    tensors = {}
    for module, layers in read_arrays(source).items():
        for layer, arrays in layers.items():
            linear = re.fullmatch(r"NetLinLayer_(\d+)", module)
            name = f"lin{linear[1]}" if linear else layer.replace("Conv_", "conv")
            # flax keeps convolutions as (H, W, I, O)
            tensors[f"{name}.weight"] = np.ascontiguousarray(arrays["kernel"].transpose(3, 2, 0, 1))
            if "bias" in arrays:
                tensors[f"{name}.bias"] = arrays["bias"]
    target.write_bytes(save(tensors))  # save_file would make it readable by its owner alone
