//! What names the things in the slabs.

use crate::slab::keys;

keys! {
    /// A message that waits or runs.
    MessageId,
    /// A sender in a group.
    SenderId,
    /// A lane.
    LaneId,
    /// A group.
    GroupId,
    /// What goes on in a group.
    ActivityId,
    /// A lease's slot.
    LeaseSlot,
    /// A batch that will be handed over again.
    HeldId,
}
