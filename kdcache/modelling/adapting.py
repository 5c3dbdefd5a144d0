"""Large models in little memory: LoRA trains adapters in place of weights, checkpointing computes activations twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from kdcache.errors import ModelError
from kdcache.modelling.building import in_encoder
from kdcache.study import Lora, Model


@contextmanager
def to_be_trained(network: Any, params: Model, seed: int) -> Iterator[Any]:
    """Yield the model in the form in which it is trained: with its `lora` adapters, and with `gradient_checkpointing`.

    Args:
        seed: the adapters are drawn from it alone.

    Raises:
        ModelError: peft is not installed, or the architecture has no such layers or no checkpointing.
    """
    if params.gradient_checkpointing:
        _checkpoint_gradients(network)
    yield network if params.lora is None else _adapted(network, params.lora, seed)
    if params.gradient_checkpointing:
        _checkpointing(network, "disable")()


def merged(network: Any) -> Any:
    """A trained model without adapters: what they learned is added to the weights."""
    return network.merge_and_unload() if hasattr(network, "merge_and_unload") else network


def _adapted(network: Any, lora: Lora, seed: int) -> Any:
    """The model with adapters. Only they and the head are trained."""
    try:
        import peft
    except ImportError:
        raise ModelError("lora needs peft: pip install 'kdcache[lora]'") from None
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=None if lora.targets is None else list(lora.targets),
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():  # it advises on other uses of adapters
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(network, settings)
    except ValueError as error:
        raise ModelError(f"lora: {error} (this model is a {network.config.model_type})") from error
    for name, parameter in network.named_parameters():
        if not in_encoder(name, network):
            parameter.requires_grad_(True)
    return adapted


def _checkpoint_gradients(network: Any) -> None:
    if not network.supports_gradient_checkpointing:
        raise ModelError(
            f"gradient_checkpointing: transformers has none for model_type {network.config.model_type!r}"
        )
    _checkpointing(network, "enable")({"use_reentrant": False})


def _checkpointing(network: Any, what: str) -> Callable[..., None]:
    """transformers has begun to call it activation checkpointing."""
    names = (f"activation_checkpointing_{what}", f"gradient_checkpointing_{what}")
    return next(getattr(network, name) for name in names if hasattr(network, name))  # type: ignore[no-any-return]
