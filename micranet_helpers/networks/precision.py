"""Choose the device and the arithmetic of a machine."""

import torch


def best_device() -> str:
    """Choose where networks are trained and applied: "cuda" if torch can use a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_precision() -> str:
    """Choose the arithmetic in which this machine trains fastest, a precision of pytorch-lightning.

    It is half precision where the GPU or the CPU computes in it, else "32-true".
    """
    if torch.cuda.is_available():
        # Colab's T4 knows bfloat16 by emulation only, which is slower than either alternative.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    if torch.backends.mps.is_available():
        return "32-true"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16-mixed" if native else "32-true"


def autocast() -> torch.autocast:
    """Let networks compute in bfloat16 where this machine has it; a context manager."""
    return torch.autocast(best_device(), torch.bfloat16, choose_precision() == "bf16-mixed")
