"""Find the network in what others have wrapped around it."""

from torch import nn

from micranet_helpers.networks.micranet import MICRANet

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


def classifier(model: nn.Module) -> MICRANet:
    """Return the MICRA-Net in its wrappings; refuse other networks and quantised ones."""
    model = unwrapped(model)
    if not isinstance(model, MICRANet):
        raise TypeError(f"Maps need a MICRANet, not a {type(model).__name__}.")
    if not isinstance(model.linear1, nn.Linear):
        raise TypeError("Maps need float weights, not quantised ones: take the network before.")
    return model
