"""Where replies come from: a model in this process, or a server that speaks OpenAI's protocol."""

from typing import Literal, get_args
from urllib.parse import urlsplit

from safelox.errors import UsageError
from safelox.evaluation.generation.decoding import BATCH_SIZE
from safelox.evaluation.generation.local import LocalGenerator, load_on_device
from safelox.evaluation.generation.server import CONCURRENCY, ServerGenerator
from safelox.evaluation.generation.settings import Generator
from safelox.machine import chosen_device
from safelox.manifest import Record

BackendName = Literal["transformers", "openai"]
DtypeName = Literal["bf16", "fp16", "fp32"]


class Backend(Record):
    """What decides replies besides the model and the settings; it belongs into a result's config."""

    name: BackendName = "transformers"
    device: str | None = "cpu"
    """Of transformers; None for a server."""
    dtype: DtypeName | None = "fp32"
    """Of the weights in transformers; None for a server."""
    base_url: str | None = None
    """Of the server; None for transformers."""
    api_model: str | None = None
    """By which the server knows the model; None: by the name that it has here."""


def find_backend(
    name: str = "transformers",
    *,
    base_url: str | None = None,
    api_model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Backend:
    """The backend that these options name.

    Args:
        name: transformers or openai.
        base_url: of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.
        api_model: by which the server knows the model; None: by the model's own name.
        device: of transformers: cpu, cuda or cuda:1; None: cpu.
        dtype: of the weights in transformers; None: fp32 on the CPU, bf16 on CUDA.

    Raises:
        UsageError: an option has no such value, or belongs to the other backend.
    """
    if name not in get_args(BackendName):
        raise UsageError(f"no backend is called {name!r}; there are: {', '.join(get_args(BackendName))}.")
    if name == "openai":
        if device is not None or dtype is not None:
            raise UsageError("device and dtype are the server's own; they go with the backend transformers alone.")
        if base_url is None:
            raise UsageError("the backend openai needs the base URL of a server, such as http://127.0.0.1:8000/v1.")
        _check_url(base_url)
        return Backend(name="openai", device=None, dtype=None, base_url=base_url, api_model=api_model)
    if base_url is not None or api_model is not None:
        raise UsageError("a base URL and a model's name on a server go with the backend openai alone.")
    if dtype is not None and dtype not in get_args(DtypeName):
        raise UsageError(f"no dtype is called {dtype!r}; there are: {', '.join(get_args(DtypeName))}.")
    place = chosen_device(device or "cpu")
    return Backend.model_validate({"device": str(place), "dtype": dtype or ("fp32" if place.type == "cpu" else "bf16")})


def open_generator(
    model: str, backend: Backend | None = None, *, batch_size: int = BATCH_SIZE, concurrency: int = CONCURRENCY
) -> Generator:
    """A generator that is ready to reply.

    Args:
        model: a folder, or org/name[@revision] on the hub, each with +ADAPTER or without; with a server, the name by
            which it knows the model, unless the backend has one.
        backend: None: transformers, in fp32 on the CPU.
        batch_size: replies that transformers makes at once; halves itself where memory runs out.
        concurrency: requests to a server that are under way at once.

    Raises:
        CheckpointError: the model cannot be read.
        PrerequisiteError: a package is missing.
        UsageError: a number makes no sense, or the device is not there.
    """
    backend = backend or Backend()
    if backend.base_url is not None:
        return ServerGenerator(backend.base_url, backend.api_model or model, concurrency=concurrency)
    if batch_size < 1:  # before a model is loaded in vain
        raise UsageError(f"batch size {batch_size}: at least one prompt has to be answered at once.")
    loaded = load_on_device(model, backend.device or "cpu", backend.dtype or "fp32")
    return LocalGenerator(loaded, batch_size=batch_size)


def _check_url(base_url: str) -> None:
    """
    Raises:
        UsageError: the URL is none of a server, or it holds a password, which would be written into the results.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{base_url!r} is not the URL of a server; it looks like http://127.0.0.1:8000/v1.")
    if parts.username or parts.password or parts.query:
        raise UsageError("the base URL holds a name, a password or a query; give keys in the environment alone.")
