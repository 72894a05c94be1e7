//! Idle senders and groups are forgotten (rule G5), without a timer each: a sweep visits every slot
//! several times an idle period, a slice at a time.

use std::collections::HashMap;
use std::time::Duration;

use crate::Time;
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::group::Group;
use crate::ids::GroupId;
use crate::settings::Lanes;

/// Where the sweep is.
#[derive(Default)]
pub(crate) struct Sweep {
    next: Option<Time>,
    cursor: usize,
}

impl<P> Engine<P> {
    /// When a poll would forget something, at the earliest. Nothing depends on it being in time.
    pub fn tidy_at(&self) -> Time {
        self.sweep.next.unwrap_or(Time::NEVER)
    }

    /// One slice of the sweep, if it is time for it.
    pub(crate) fn forget_idle(&mut self, out: &mut Outbox<P>) {
        if self.sweep.next.is_some_and(|next| self.now < next) {
            return;
        }
        let slots = self.groups.slots().max(self.senders.slab().slots());
        let pause = self.keep() / (8 * (slots / SLICE + 1) as u32);
        let first = self.sweep.next.is_none();
        self.sweep.next = (self.groups.len() > 0).then(|| self.now.after(pause));
        if first {
            return;
        }
        let from = self.sweep.cursor;
        self.forget_slots(from, from + SLICE, out);
        self.sweep.cursor = if from + SLICE < slots {
            from + SLICE
        } else {
            0
        };
    }

    /// The whole sweep, for those who look.
    pub(crate) fn forget_all_idle(&mut self, out: &mut Outbox<P>) {
        self.forget_slots(0, usize::MAX, out);
    }

    fn forget_slots(&mut self, from: usize, to: usize, out: &mut Outbox<P>) {
        let (keep, shared) = (self.keep(), self.oldest_in_shared_lanes());
        let senders = self.senders.slab().keys_in(from, to);
        let idle: Vec<_> = senders
            .filter(|&id| {
                let sender = &self.senders[id];
                let last = sender.last();
                let silent = last == Time::NEVER || last.after(keep) < self.now;
                let gone = shared
                    .get(&sender.group)
                    .is_none_or(|&oldest| last < oldest);
                let group = &self.groups[sender.group];
                // Who has been served more than their turn is forgotten only with the group.
                let even = sender.standing <= group.served.points() || self.is_over(group);
                sender.lane.is_none() && silent && gone && even
            })
            .collect();
        for id in idle {
            let group = &mut self.groups[self.senders[id].group];
            group.senders -= 1;
            group.last_sender.take_if(|last| *last == id);
            self.senders.remove(id);
        }
        let idle: Vec<_> = self
            .groups
            .keys_in(from, to)
            .filter(|&id| self.groups[id].senders == 0 && self.is_over(&self.groups[id]))
            .collect();
        for id in idle {
            self.forget_group(id, out);
        }
    }

    /// Where members share a lane, none of them has one, and their messages are in their group's:
    /// the oldest that it holds, by group. Nothing is left of who fell silent before it came.
    fn oldest_in_shared_lanes(&self) -> HashMap<GroupId, Time> {
        let mut oldest = HashMap::new();
        if self.settings.lanes != Lanes::Group {
            return oldest;
        }
        let waiting = self
            .lanes
            .iter()
            .filter_map(|(_, lane)| Some((lane.group, lane.head()?)));
        let running = self
            .leases
            .iter()
            .map(|(_, lease)| (lease.group, lease.first));
        for (group, first) in waiting.chain(running) {
            let at = self.messages[first].at;
            let known = oldest.entry(group).or_insert(at);
            *known = at.min(*known);
        }
        oldest
    }

    /// Whether nothing of a group has to be remembered any more, but for its senders.
    pub(crate) fn is_over(&self, group: &Group<P>) -> bool {
        let idle = group.activity.is_none() && !group.paused;
        idle && group.last_at.after(self.keep()) < self.now && {
            let mut ids = group.inbox.group().ids();
            if ids
                .as_mut()
                .is_some_and(|ids| ids.purge(self.now, self.settings.dedup))
            {
                *ids = None;
            }
            ids.is_none()
        }
    }

    fn forget_group(&mut self, id: GroupId, out: &mut Outbox<P>) {
        if !self.intake.forget(&self.groups[id].inbox) {
            return; // something has just been pushed to it
        }
        let group = self.groups.remove(id);
        self.metrics.forgotten_groups += 1;
        if self.observed {
            out.events.push(Event::GroupForgotten {
                group: group.name().clone(),
                at: self.now,
            });
        }
    }

    /// An idle sender's last messages matter for as long as they make the next one quick.
    fn keep(&self) -> Duration {
        let settings = &self.settings;
        settings
            .idle_group
            .max(settings.burst)
            .max(settings.back_to_back)
    }
}

/// Slots a slice.
const SLICE: usize = 4_096;
