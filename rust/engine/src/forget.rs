//! Idle senders and groups are forgotten (rule G5), without a timer each: a sweep visits every slot
//! several times an idle period, a slice at a time.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::Time;
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{GroupId, SenderId};

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

    /// Whether something of a sender waits or runs, or of all for whom it stands.
    fn has_lane(&self, id: SenderId) -> bool {
        let sender = &self.senders[id];
        let fallback = || self.fallbacks.get(&sender.group).and_then(|it| it.lane);
        sender.lane.is_some()
            || (!self.background.is_empty() && self.background.contains_key(&id))
            || (!self.fallbacks.is_empty()
                && fallback().is_some_and(|lane| self.lanes[lane].sender == id))
    }

    /// The whole sweep, for those who look.
    pub(crate) fn forget_all_idle(&mut self, out: &mut Outbox<P>) {
        self.forget_slots(0, usize::MAX, out);
    }

    fn forget_slots(&mut self, from: usize, to: usize, out: &mut Outbox<P>) {
        let keep = self.keep();
        let senders = self.senders.slab().keys_in(from, to);
        let idle: Vec<_> = senders
            .filter(|&id| {
                let sender = &self.senders[id];
                let last = sender.last();
                let silent = last == Time::NEVER || last.after(keep) < self.now;
                let group = &self.groups[sender.group];
                // Who has been served more than their turn, or has yet to be told of what was evicted,
                // is forgotten only with the group.
                let even = sender.standing <= group.now_served().points
                    && (self.evicted.is_empty() || !self.evicted.contains_key(&id));
                !self.has_lane(id)
                    && sender.messages == 0
                    && !self.has_saved(id)
                    && silent
                    && (even || self.is_over(sender.group))
            })
            .collect();
        let mut by_group: HashMap<GroupId, HashSet<SenderId>> = HashMap::new();
        for id in idle {
            by_group
                .entry(self.senders[id].group)
                .or_default()
                .insert(id);
        }
        for (group, gone) in by_group {
            let group = &mut self.groups[group];
            group.senders -= gone.len() as u32;
            group.last_sender.take_if(|last| gone.contains(last));
            if let Some(room) = &mut group.room {
                room.active.forget(&gone);
                if let Some(minute) = &mut room.minute {
                    minute.forget(&gone, &self.senders);
                }
            }
            for id in gone {
                self.evicted.remove(&id);
                self.forget_saved_of(id);
                self.senders.remove(id);
            }
        }
        let idle: Vec<_> = self
            .groups
            .keys_in(from, to)
            .filter(|&id| self.groups[id].senders == 0 && self.is_over(id))
            .collect();
        for id in idle {
            self.forget_group(id, out);
        }
    }

    /// Whether nothing of a group has to be remembered any more, but for its senders.
    pub(crate) fn is_over(&self, id: GroupId) -> bool {
        let group = &self.groups[id];
        let settings = group.settings(&self.profile);
        let idle = group.activity.is_none()
            && group.last_at.after(self.keep()) < self.now
            && group
                .room
                .as_ref()
                .is_none_or(|room| room.is_over(self.now))
            && group.inbox.group().waiting() == 0
            && !self.pauses.contains_key(&id)
            && !self.is_diverted(id)
            && !self.line.holds(&group.inbox)
            && !self.runs_beside(id)
            && self.bypass.iter().all(|it| it.0 != id);
        idle && {
            let mut ids = group.inbox.group().ids();
            if ids
                .as_mut()
                .is_some_and(|ids| ids.purge(self.now, settings.dedup))
            {
                *ids = None;
            }
            ids.is_none()
        }
    }

    /// Whether a call of the group runs that has no lane.
    fn runs_beside(&self, id: GroupId) -> bool {
        let mut leases = self.leases.iter();
        self.bypass_calls > 0 && leases.any(|(_, lease)| lease.group == id && lease.lane.is_none())
    }

    fn forget_group(&mut self, id: GroupId, out: &mut Outbox<P>) {
        if !self.intake.forget(&self.groups[id].inbox) {
            return; // something has just been pushed to it
        }
        for timers in [&mut self.deadlines, &mut self.token_timers] {
            timers.set(id, Time::NEVER);
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
        let settings = &self.profile.settings;
        settings
            .idle_group
            .max(settings.burst)
            .max(settings.back_to_back)
            .max(settings.size_window)
    }
}

/// Slots a slice.
const SLICE: usize = 4_096;
