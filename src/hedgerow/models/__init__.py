"""Reference networks, and a user's own module by `package.module:function`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hedgerow.registry import Registry, import_folder

Builder = Callable[..., nn.Module]
"""`(*, num_classes: int, channels: int, image_size: tuple[int, int], **options) -> nn.Module`."""

MODELS: Registry[Builder] = Registry("model")

# Every file of the folder imports MODELS from here, hence the order below.
import_folder(__name__, list(__path__))

from hedgerow.models.check import check_model  # noqa: E402
from hedgerow.models.load import build_model  # noqa: E402
from hedgerow.models.normalize import Normalize  # noqa: E402

__all__ = ["MODELS", "Builder", "Normalize", "build_model", "check_model"]
