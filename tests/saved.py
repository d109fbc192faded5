"""A state that is written while training changes it, on any device."""

import threading
from pathlib import Path

import torch
from safetensors.torch import save_file

from d2it.runs import state
from d2it.training.saver import Contents, Saver


def saved_twice(folder: Path, device: torch.device) -> Saver:
    """What is written is what was there, though training changes it before the thread has
    begun; again in the buffers of the first.
    """
    weight = torch.randn(4, 3, 5, 5).to(device)
    tensors = {
        "weight": weight.to(memory_format=torch.channels_last),  # files hold rows, whatever is here
        "step": torch.ones((), dtype=torch.int64, device=device),
        "half": torch.ones(3, dtype=torch.bfloat16, device=device),
    }
    saver, begin = Saver(device), threading.Event()
    for images in (8, 16):
        expected = {name: t.cpu().contiguous().clone() for name, t in tensors.items()}

        def write(held: Contents, images: int = images) -> None:
            assert begin.wait(10)
            state.save(state.state_folder(folder, images), images, held, {})

        begin.clear()
        saver.put({"model": tensors}, write)
        for tensor in tensors.values():
            tensor += 1
        begin.set()
        saver.wait()
        save_file(expected, folder / "expected")
        found = state.read(state.state_folder(folder, images)).folder / "model.safetensors"
        assert found.read_bytes() == (folder / "expected").read_bytes()
    saver.close()
    return saver
