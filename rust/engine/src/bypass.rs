//! Commands that start at once beside everything: no lane, no slot, no context (rule A8).

use crate::admission::Arrival;
use crate::engine::{Engine, Outbox};
use crate::ids::{GroupId, SenderId};
use crate::lease::LeaseId;

impl<P> Engine<P> {
    /// Puts a message where the next poll starts it.
    pub(crate) fn go_around(&mut self, group: GroupId, arrival: Arrival<P>, sender: SenderId) {
        let id = self.take_down(arrival, sender);
        self.beside += 1;
        self.expire_later(group, id);
        self.bypass.push_back((group, id));
    }

    /// Starts what has been waiting for no more than this poll, paused or full or not.
    pub(crate) fn start_bypass(&mut self, out: &mut Outbox<P>) -> Option<LeaseId> {
        let (group, id) = self.bypass.pop_front()?;
        self.beside -= 1;
        Some(self.lease_bypass(group, id, out))
    }
}
