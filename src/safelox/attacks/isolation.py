"""What training must not disturb, put back afterwards."""

import contextlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from safelox.machine import one_thread

if TYPE_CHECKING:
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


@contextlib.contextmanager
def unpatched(model: "PreTrainedModel") -> Iterator[None]:
    """The model afterwards with its own `forward`, tags and configuration; only its weights may differ.

    TRL puts a wrapper around `forward`; the trainer copies the tokenizer's special tokens to the model's configuration
    and turns its cache off, without which the saved model would generate slowly.
    """
    configs = [config for config in (model.config.get_text_config(), model.generation_config) if config is not None]
    settings = [{name: getattr(config, name) for name in _SETTINGS if hasattr(config, name)} for config in configs]
    own = {name: model.__dict__[name] for name in _PATCHED if name in model.__dict__}
    try:
        yield
    finally:
        for config, kept in zip(configs, settings, strict=True):
            for name, value in kept.items():
                setattr(config, name, value)
        for name in _PATCHED:
            model.__dict__.pop(name, None)
        model.__dict__.update(own)


_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")
_PATCHED = ("forward", "model_tags", "_is_accelerate_prepared")
