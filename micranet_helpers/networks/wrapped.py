"""Find the network in what others have wrapped around it."""

from torch import nn

# Names, so that nothing has to be imported: class of the wrapper, and where it keeps the network.
WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "LightningModule": "model",
}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network that was compiled, made parallel, averaged or trained by Lightning."""
    for kind in type(model).__mro__:
        inner = getattr(model, WRAPPERS.get(kind.__name__, ""), None)
        if isinstance(inner, nn.Module):
            return unwrapped(inner)
    return model
