"""chinwag decides when, in which order and together with what group-chat messages are handled."""

from chinwag._core import Batch, Message, Receipt
from chinwag.config import Config
from chinwag.context import Context, Inbox, Previous
from chinwag.dead import DeadLetter, DeadLetters
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
from chinwag.explain import Explanation
from chinwag.group import Group
from chinwag.queue import Queue
from chinwag.settings import Band, Busy, Limits, Order, Retry, Window
from chinwag.stream import Restarted

__all__ = [
    "Band",
    "Batch",
    "Busy",
    "ChinwagError",
    "Config",
    "ConfigError",
    "Context",
    "DeadLetter",
    "DeadLetters",
    "Dropped",
    "Explanation",
    "Group",
    "Imbalance",
    "Inbox",
    "LeaseLost",
    "Limits",
    "Message",
    "Order",
    "Previous",
    "Queue",
    "QueueClosed",
    "QueueFull",
    "Receipt",
    "Rejected",
    "Restarted",
    "Retry",
    "Window",
]
