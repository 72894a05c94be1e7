"""What tests of settings share: how one is refused, and what the default bands are."""

from __future__ import annotations

from typing import Any

import pytest

from chinwag.config import Config
from chinwag.errors import ConfigError

BY_SIZE = [(2, "round_robin"), (6, "priority"), (16, "load_balanced"), (50, "adaptive")]


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.of(**settings)
    return str(caught.value)
