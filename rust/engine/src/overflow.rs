//! A full group drops something (rules A4, W11).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::Seq;
use crate::admission::Arrival;
use crate::engine::{Engine, Outbox};
use crate::ids::{ActivityId, GroupId, MessageId, SenderId};
use crate::ledger::End;
use crate::message::{Messages, Place};
use crate::settings::{Lanes, Overflow};
use crate::status::MessageName;

/// What waits in a group, in push order, with lazy deletion.
#[derive(Default)]
pub(crate) struct Oldest {
    heap: BinaryHeap<Reverse<(Seq, MessageId)>>,
}

impl Oldest {
    /// Throws out what has left once it is most of the heap; delayed messages are few.
    fn tidy<P>(&mut self, live: usize, messages: &Messages<P>) {
        if self.heap.len() > 4 * live + 1_024 {
            self.heap
                .retain(|&Reverse((seq, id))| waits(messages, seq, id));
        }
    }
}

fn waits<P>(messages: &Messages<P>, seq: Seq, id: MessageId) -> bool {
    messages
        .get(id, seq)
        .is_some_and(|message| matches!(message.place(), Place::Lane | Place::Delayed))
}

impl<P> Engine<P> {
    /// Evicts what has waited longest, for as long as more waits than may; a message has just come,
    /// and may have gone again.
    pub(crate) fn drop_oldest(
        &mut self,
        group: GroupId,
        id: MessageId,
        seq: Seq,
        out: &mut Outbox<P>,
    ) {
        if let Some(key) = self.groups[group].activity {
            let activity = &mut self.activities[key];
            let live = activity.waiting as usize;
            if let Some(oldest) = &mut activity.oldest {
                oldest.heap.push(Reverse((seq, id)));
                oldest.tidy(live, &self.messages);
            }
        }
        self.shed(group, out);
    }

    /// The same once a group may hold less than before.
    pub(crate) fn shed(&mut self, group: GroupId, out: &mut Outbox<P>) {
        let settings = self.groups[group].settings(&self.profile);
        let Some(most) = settings.capacity_per_group else {
            return;
        };
        if settings.overflow != Overflow::DropOldest {
            return;
        }
        while self.waiting_in(group) > most {
            let Some(oldest) = self.oldest_in(group) else {
                return;
            };
            self.note_evicted(group, oldest);
            self.leave(group, oldest, End::Evicted, "capacity", out);
        }
    }

    /// A full group has taken a message for nothing but to evict it (`overflow="drop_newest"`).
    pub(crate) fn evict_newest(
        &mut self,
        group: GroupId,
        arrival: Arrival<P>,
        sender: SenderId,
        out: &mut Outbox<P>,
    ) {
        let id = self.take_down(arrival, sender);
        self.ledger.waiting -= 1;
        self.note_evicted(group, id);
        self.end_messages(group, Some(id), End::Evicted, "capacity", None, out);
    }

    /// What was evicted from a lane since its last call.
    pub(crate) fn take_evicted(&mut self, sender: SenderId) -> Option<Box<[MessageName]>> {
        if self.evicted.is_empty() {
            return None;
        }
        self.evicted.remove(&sender).map(Vec::into_boxed_slice)
    }

    /// Remembers it for the next batch of its lane.
    fn note_evicted(&mut self, group: GroupId, id: MessageId) {
        let sender = match self.groups[group].settings(&self.profile).lanes {
            Lanes::Sender => self.messages[id].sender,
            Lanes::Group => self.everybody(group),
            Lanes::Message => return,
        };
        let name = self.name_of(id);
        let names = self.evicted.entry(sender).or_default();
        if names.len() == MOST_NAMES {
            names.remove(0);
        }
        names.push(name);
    }

    /// Messages of a group that wait and count, as far as they have been drained.
    fn waiting_in(&self, group: GroupId) -> u32 {
        let group = &self.groups[group];
        let delayed = group.later().map_or(0, |later| later.delayed);
        let waiting = group
            .activity
            .map_or(0, |activity| self.activities[activity].waiting);
        waiting + delayed
    }

    fn oldest_in(&mut self, group: GroupId) -> Option<MessageId> {
        let Some(activity) = self.groups[group].activity else {
            // Nothing but delayed messages.
            return self.delayed_in(group).first().map(|&(_, id)| id);
        };
        if self.activities[activity].oldest.is_none() {
            let heap = self
                .all_waiting_in(group)
                .into_iter()
                .filter(|&(_, id)| self.counts(id)) // never what has started
                .map(Reverse)
                .collect();
            self.activities[activity].oldest = Some(Box::new(Oldest { heap }));
        }
        self.pop_oldest(activity)
    }

    fn pop_oldest(&mut self, activity: ActivityId) -> Option<MessageId> {
        let oldest = self.activities[activity].oldest.as_mut()?;
        while let Some(Reverse((seq, id))) = oldest.heap.pop() {
            if waits(&self.messages, seq, id) {
                return Some(id);
            }
        }
        None
    }

    /// What waits in the lanes of a group or has yet to, with its place in the push order.
    pub(crate) fn all_waiting_in(&self, group: GroupId) -> Vec<(Seq, MessageId)> {
        let lanes = self.lanes_of(group);
        let waiting = lanes.flat_map(|lane| self.messages.chain(self.lanes[lane].head()));
        waiting
            .map(|id| (self.messages[id].seq(), id))
            .chain(self.delayed_in(group))
            .collect()
    }
}

/// Evicted messages that a lane can name.
const MOST_NAMES: usize = 1_000;
