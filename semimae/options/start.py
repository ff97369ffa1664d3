"""Options of the phases before the last one."""

from pydantic import Field

from semimae.options.phase import OwnSettings
from semimae.options.train import StepsOrNone
from semimae.types import Frozen


def _is_empty(own: OwnSettings) -> bool:
    return not own


class Pretraining(Frozen):
    """A first phase of masked pretraining."""

    mae_steps: StepsOrNone = Field(description="Steps of masked-autoencoder pretraining. 0: none.")
    # Not stated where there is nothing to state: such a cell is the same as without this field.
    mae: OwnSettings = Field(default={}, exclude_if=_is_empty)

    def __hash__(self) -> int:
        """Hash the content: dictionaries have no hash of their own."""
        return hash(self.model_dump_json())


class Starts(Pretraining):
    """Masked pretraining, then supervised training."""

    supervised_steps: StepsOrNone = Field(description="Steps of supervised training. 0: none.")
    supervised: OwnSettings = Field(default={}, exclude_if=_is_empty)


class StartConfig(Starts):
    """Phases before the last one, for methods with several. The last one has train.steps."""

    mae: OwnSettings = Field(
        description="What this phase has of its own: {SECTION: {FIELD: VALUE}}, such as {optim: "
        "{lr: 1e-3, layer_decay: 1.0}}. Sections: data (weak view), optim, train (batch_size, mu, "
        "accumulate, ema_decay, ema_warmup). A field that is left out is the run's own."
    )
    supervised: OwnSettings = Field(
        description="The same for the supervised phase of semi_vit. Sections: data (weak and "
        "strong view), labeled, optim, train (batch_size, drop_path, accumulate, ema_decay, "
        "ema_warmup)."
    )
