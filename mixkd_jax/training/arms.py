"""The arms of a comparison: ways of training one student."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an arm uses.

    Attributes:
      mixes: whether inputs and labels are mixed.
      distils: whether a teacher is asked, and the config's loss minimised; if not, the loss is
        the cross-entropy alone.
    """

    mixes: bool
    distils: bool


ARMS = {
    "ce": Arm(mixes=False, distils=False),
    "mixup": Arm(mixes=True, distils=False),
    "kd": Arm(mixes=False, distils=True),
    "mixkd": Arm(mixes=True, distils=True),
}
