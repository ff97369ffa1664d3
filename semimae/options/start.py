"""Options of the phases before the last one."""

from pydantic import Field

from semimae.options.train import StepsOrNone
from semimae.types import Frozen


class PretrainingSteps(Frozen):
    """The length of a first phase of masked pretraining."""

    mae_steps: StepsOrNone = Field(description="Steps of masked-autoencoder pretraining. 0: none.")


class StartConfig(PretrainingSteps):
    """Phases before the last one, for methods with several. The last one has train.steps."""

    supervised_steps: StepsOrNone = Field(description="Steps of supervised training. 0: none.")
