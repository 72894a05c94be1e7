"""chinwag decides when, in which order and together with what group-chat messages are handled."""

from chinwag._core import Batch, Message, Receipt
from chinwag.config import Busy, Config, Limits, Order, Retry, Window
from chinwag.context import Context
from chinwag.errors import (
    ChinwagError,
    ConfigError,
    Dropped,
    Imbalance,
    LeaseLost,
    QueueClosed,
    QueueFull,
    Rejected,
)
from chinwag.queue import Queue

__all__ = [
    "Batch",
    "Busy",
    "ChinwagError",
    "Config",
    "ConfigError",
    "Context",
    "Dropped",
    "Imbalance",
    "LeaseLost",
    "Limits",
    "Message",
    "Order",
    "Queue",
    "QueueClosed",
    "QueueFull",
    "Receipt",
    "Rejected",
    "Retry",
    "Window",
]
