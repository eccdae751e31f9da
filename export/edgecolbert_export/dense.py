"""The Dense layers behind the backbone: bias, activation and residual, as the checkpoint says (R7)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecolbert.errors import ModelFormatError
from edgecolbert_export.json_files import read_json_object
from edgecolbert_export.weights import read_weights

# Written out instead of imported by their dotted path: a config file must not choose what code runs.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.ReLU6": nn.ReLU6,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.SiLU": nn.SiLU,
    "torch.nn.modules.activation.Mish": nn.Mish,
    "torch.nn.modules.activation.ELU": nn.ELU,
    "torch.nn.modules.activation.LeakyReLU": nn.LeakyReLU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
    "torch.nn.modules.activation.Softplus": nn.Softplus,
    "torch.nn.modules.activation.Hardswish": nn.Hardswish,
}
_KNOWN_KEYS = {"in_features", "out_features", "bias", "activation_function", "use_residual"}
# What sentence-transformers 6 adds; both name the token embeddings in every late-interaction checkpoint.
_ROUTING_KEYS = {"module_input_name", "module_output_name"}


@dataclass(frozen=True)
class DenseLayer:
    """One Dense layer: y = activation(W x + b), plus x or R x where it has a residual.

    Attributes:
        name: Folder of the layer in the checkpoint, such as "1_Dense".
        weight: float32 [out_features, in_features].
        bias: float32 [out_features], or None.
        activation: Dotted path of the activation class.
        use_residual: Add the input after the activation.
        residual: float32 [out_features, in_features], what the residual is multiplied with, or None.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    activation: str = "torch.nn.modules.linear.Identity"
    use_residual: bool = False
    residual: torch.Tensor | None = None

    @property
    def in_features(self) -> int:
        """Size of the input."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Size of the output."""
        return int(self.weight.shape[0])

    def describe(self) -> dict[str, Any]:
        """What the manifest records of it."""
        return {
            "name": self.name,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "activation": self.activation.rsplit(".", 1)[-1],
            "use_residual": self.use_residual,
        }


class DenseModule(nn.Module):  # type: ignore[misc] # torch is no dependency of the type check
    """A `DenseLayer` as a torch module.

    Args:
        layer: Weights and settings.
    """

    def __init__(self, layer: DenseLayer) -> None:
        super().__init__()
        self.linear = _linear(layer.weight, layer.bias)
        self.activation = _ACTIVATIONS[layer.activation]()
        self.use_residual = layer.use_residual
        self.residual = nn.Identity() if layer.residual is None else _linear(layer.residual, None)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Apply the layer to every token.

        Args:
            embeddings: float32 [batch, length, in_features].

        Returns:
            float32 [batch, length, out_features].
        """
        projected: torch.Tensor = self.activation(self.linear(embeddings))
        return projected + self.residual(embeddings) if self.use_residual else projected


def read_dense(folder: Path) -> DenseLayer:
    """Read one Dense folder.

    Args:
        folder: The folder with `config.json` and the weights.

    Returns:
        The layer, in float32 whatever the stored dtype (R16).

    Raises:
        ModelFormatError: If a setting is unknown or missing, or the weights do not fit the settings.
    """
    path = folder / "config.json"
    config = read_json_object(path)
    unknown = sorted(set(config) - _KNOWN_KEYS - _ROUTING_KEYS)
    if unknown:
        raise ModelFormatError(
            f"{path} has the unknown settings {unknown}, expected {sorted(_KNOWN_KEYS)}. This layer would be computed "
            "wrongly; use a newer edgecolbert, or remove the settings if they change nothing."
        )
    for key in sorted(_ROUTING_KEYS & set(config)):
        if config[key] not in (None, "token_embeddings"):
            raise ModelFormatError(
                f"{path} has {key} {config[key]!r}, expected 'token_embeddings'. Only layers on token embeddings can "
                "be exported."
            )
    activation = config.get("activation_function")
    if activation not in _ACTIVATIONS:
        raise ModelFormatError(
            f"{path} has the activation_function {activation!r}, expected one of {sorted(_ACTIVATIONS)}. "
            "Use a newer edgecolbert, or ask for this activation."
        )
    weights = {name: weight.to(torch.float32) for name, weight in read_weights(folder).items()}
    use_residual = bool(config.get("use_residual", False))
    expected = {"linear.weight"}
    if config.get("bias", True):  # absent means true (R7)
        expected.add("linear.bias")
    if use_residual and config.get("in_features") != config.get("out_features"):
        expected.add("residual.weight")
    if set(weights) != expected:
        raise ModelFormatError(
            f"The weights in {folder} are {sorted(weights)}, but its config.json asks for {sorted(expected)}. "
            "Correct the config, or copy the checkpoint again."
        )
    layer = DenseLayer(
        name=folder.name,
        weight=weights["linear.weight"],
        bias=weights.get("linear.bias"),
        activation=activation,
        use_residual=use_residual,
        residual=weights.get("residual.weight"),
    )
    found, wanted = (layer.in_features, layer.out_features), (config.get("in_features"), config.get("out_features"))
    if found != wanted:
        raise ModelFormatError(
            f"The weights in {folder} map {found[0]} to {found[1]} features, but its config.json says {wanted[0]} to "
            f"{wanted[1]}. Copy or download the checkpoint again."
        )
    return layer


def check_chain(layers: tuple[DenseLayer, ...], hidden_size: int, folder: Path) -> None:
    """Refuse layers that do not fit one another.

    Args:
        layers: The layers in the order of execution.
        hidden_size: Size of the backbone's token embeddings.
        folder: The checkpoint, for the error message.

    Raises:
        ModelFormatError: If a layer's input is not the size of what comes before it.
    """
    size, before = hidden_size, "the backbone"
    for layer in layers:
        if layer.in_features != size:
            raise ModelFormatError(
                f"{folder / layer.name} takes {layer.in_features} features, but {before} gives {size}. "
                "Check the order of modules.json."
            )
        size, before = layer.out_features, layer.name


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
