"""The one exception that a user is meant to read, and torch's that can be told in its place.

torch's are known by their names and words: not every verb imports it.
"""

import re

NO_MEMORY = re.compile(  # of CUDA's context, of pinned memory; of cuBLAS and cuDNN; of NCCL
    r"CUDA error: out of memory|STATUS_\w*ALLOC\w*_FAILED|Cuda failure.* 'out of memory'"
)
NO_HOST_MEMORY = re.compile(r"DefaultCPUAllocator: |Cannot allocate memory")
NO_COMPILER = re.compile(r"InvalidCxxCompiler|C(\+\+)? compiler|Python\.h")


SETTINGS = "\0"  # in a sentence, after a command: those that the failing command was given


class UserError(Exception):
    """Something the user can mend: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback and exits with 2. Commands that it advises end
    in SETTINGS, which the command line fills in; other processes hand on `sentence`, with the gaps.
    """

    def __init__(self, sentence: str):
        super().__init__(sentence)
        self.sentence = sentence

    def told(self, settings: str) -> str:
        return _plain(self.sentence.replace(SETTINGS, settings and f" {settings}"))

    def __str__(self) -> str:
        return self.told("")


def _plain(text: str) -> str:
    """One line, in which no file name and no server's word can steer a terminal."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text
    )


def is_out_of_memory(error: Exception) -> bool:
    """Of a GPU, or of the host where a GPU copies to; be it told by torch or by a library."""
    of_torch = isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))
    return "OutOfMemoryError" in _kinds(error) or bool(of_torch)


def is_out_of_host_memory(error: Exception) -> bool:
    """Of NumPy or Python, of torch on a CPU, or of a system call."""
    return isinstance(error, MemoryError) or bool(NO_HOST_MEMORY.search(str(error)))


def compile_sentence(error: Exception, settings: str) -> str | None:
    """What to do where blocks cannot be compiled; None: it is something else."""
    if "BackendCompilerFailed" not in _kinds(error):
        return None
    _, _, said = str(error).rpartition("raised:\n")  # backend='inductor' raised:
    told = said.strip().partition("\n")[0].rstrip(".")
    without = f"set {settings}.compile=false, which changes no recipe"
    if lacks_compiler(error):
        return (
            f"Blocks cannot be compiled on this node ({told}): load a C and C++ compiler and "
            f"Python's headers, or {without}."
        )
    return (
        f"torch could not compile blocks ({told}): {without}, and report this with the traceback."
    )


def lacks_compiler(error: Exception) -> bool:
    """Triton and inductor call the node's own."""
    return bool(NO_COMPILER.search(str(error)))


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
