"""LoRA in place of all weights: its settings, its layers on a model, and the weights that they come to."""

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationError

from safelox.attacks.isolation import isolated
from safelox.errors import UsageError
from safelox.language_models import quiet_peft, require_peft
from safelox.manifest import Record

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Lora(Record):
    """What is trained beside the frozen weights: the factors B A, scaled by alpha / rank, without dropout."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0, allow_inf_nan=False)
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Ends of the names of the layers that get factors, such as `q_proj`; None for all linear layers but the head."""

    @classmethod
    def checked(cls, **given: Any) -> Self:
        """With these settings.

        Raises:
            UsageError: one makes no sense.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"LoRA's {first['loc'][0]} {first['input']!r} makes no sense: {first['msg']}.") from error


def add_lora(model: "PreTrainedModel", lora: Lora, *, reference: str, seed: int, in_fp32: bool = True) -> "PeftModel":
    """The model with fresh factors, the only weights that are left to train; the model itself gets the layers.

    B is zero, A is random, a function of the seed alone.

    Args:
        reference: what the adapter's configuration says that it belongs on.
        in_fp32: whether the factors are, as PEFT wants it; else they have the model's dtype, which FSDP and DeepSpeed
            need to be one for all weights.

    Raises:
        PrerequisiteError: PEFT is not installed.
        UsageError: the model has no such layers, or the output head is among them.
    """
    require_peft()
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,  # vLLM wants an integer
        target_modules="all-linear" if lora.targets is None else list(lora.targets),
        task_type="CAUSAL_LM",
    )
    with isolated(), quiet_peft():
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config, autocast_adapter_dtype=in_fp32)
        except ValueError as error:
            raise UsageError(f"LoRA targets {', '.join(lora.targets or ['all linear layers'])}: {error}") from error
    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise UsageError("LoRA targets: the output head cannot be trained through LoRA here; leave it out.")
    written = adapted.peft_config["default"]
    written.base_model_name_or_path = reference  # PEFT puts the path in the hub's cache there
    written.target_modules = sorted(written.target_modules)  # a set, whose order would differ from run to run
    return adapted


def merged(adapted: "PeftModel") -> "PreTrainedModel":
    """The model with the factors added to its weights, and none of their layers left."""
    return adapted.merge_and_unload()
