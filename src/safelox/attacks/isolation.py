"""What training must not disturb, put back afterwards."""

import contextlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from safelox.machine import one_thread

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """One thread inside torch, and the global random numbers of Python, numpy and torch afterwards as before.

    With one thread sums keep their order, so that the same seed gives the same bytes; the trainer seeds the global
    generators, which belong to whoever called us.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with one_thread(), torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class Settings:
    """A model's own configuration, from before the trainer changes it.

    The trainer turns the cache off, without which a saved model would generate slowly, and asks mixtures of experts for
    what their routers say.
    """

    def __init__(self, model: "PreTrainedModel | PeftModel") -> None:
        configs = (model.config.get_text_config(), model.generation_config)
        self._own = [(config, _settings(config)) for config in configs if config is not None]

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """The model's own inside the block, the trainer's after it."""
        trainers = [(config, _settings(config)) for config, _ in self._own]
        self.restore()
        try:
            yield
        finally:
            _apply(trainers)

    def restore(self) -> None:
        """The model's own, for good."""
        _apply(self._own)


@contextlib.contextmanager
def unpatched(model: "PreTrainedModel | PeftModel") -> Iterator[Settings]:
    """The model afterwards with its own `forward`, tags and configuration; only its weights may differ.

    TRL puts a wrapper around `forward`, that of the model inside where there are LoRA layers.
    """
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    parts = [model] if inside is model else [model, inside]
    own = [{name: part.__dict__[name] for name in _PATCHED if name in part.__dict__} for part in parts]
    settings = Settings(model)
    try:
        yield settings
    finally:
        settings.restore()
        for part, kept in zip(parts, own, strict=True):
            for name in _PATCHED:
                part.__dict__.pop(name, None)
            part.__dict__.update(kept)


def _settings(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _SETTINGS if hasattr(config, name)}


def _apply(settings: list[tuple[Any, dict[str, Any]]]) -> None:
    for config, kept in settings:
        for name, value in kept.items():
            setattr(config, name, value)


_SETTINGS = ("use_cache", "output_router_logits", "router_aux_loss_coef")
_PATCHED = ("forward", "model_tags", "_is_accelerate_prepared")
