//! What is to happen in a group at a given time, the windows of its lanes aside: delays end, messages
//! expire, people have stopped typing (rules T4, F6, W8).
//!
//! One heap a group that has any, with lazy deletion; the engine's timers know its first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use compact_str::CompactString;

use crate::engine::{Engine, Outbox};
use crate::ids::{GroupId, MessageId};
use crate::ledger::End;
use crate::message::{Flag, Messages, Place};
use crate::{Seq, Time};

/// What is to come, and what it is about.
pub(crate) struct Later {
    heap: BinaryHeap<Reverse<Deadline>>,
    /// Messages that have yet to arrive.
    pub(crate) delayed: u32,
    /// Calls of it that have left saved state for the next.
    pub(crate) saved: u32,
    /// Who types, and for how long without a sign of them.
    pub(crate) typing: Vec<(CompactString, Time)>,
    /// When they are looked at next.
    pub(crate) typing_at: Time,
}

impl Default for Later {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            delayed: 0,
            saved: 0,
            typing: Vec::new(),
            typing_at: Time::NEVER,
        }
    }
}

/// At one instant they come in the order of [`What`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Deadline {
    at: Time,
    what: What,
    seq: Seq,
    message: Option<MessageId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// A message arrives.
    Delay,
    /// One expires.
    Expiry,
    /// Somebody has stopped typing.
    Typing,
    /// What a call saved was kept long enough.
    Saved,
}

impl Later {
    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Time {
        self.heap.peek().map_or(Time::NEVER, |next| next.0.at)
    }

    fn push<P>(&mut self, deadline: Deadline, live: u32, messages: &Messages<P>) {
        self.heap.push(Reverse(deadline));
        if self.heap.len() > 2 * (live as usize + self.typing.len()) + 64 {
            let typing_at = self.typing_at;
            self.heap.retain(|deadline| match deadline.0.what {
                What::Typing => deadline.0.at == typing_at,
                _ => deadline.0.is_live(messages),
            });
        }
    }
}

impl Deadline {
    fn is_live<P>(&self, messages: &Messages<P>) -> bool {
        let Some(id) = self.message else {
            return true;
        };
        messages
            .get(id, self.seq)
            .is_some_and(|message| match self.what {
                What::Delay => message.place() == Place::Delayed,
                What::Expiry => !matches!(message.place(), Place::Call | Place::Delayed),
                What::Typing | What::Saved => false,
            })
    }
}

impl<P> Engine<P> {
    pub(crate) fn later(&mut self, group: GroupId) -> &mut Later {
        self.room(group).later.get_or_insert_default()
    }

    /// Sees to something in a group at its time.
    pub(crate) fn remind(&mut self, group: GroupId, at: Time, what: What, id: Option<MessageId>) {
        let seq = id.map_or(Seq(0), |id| self.messages[id].seq());
        let deadline = Deadline {
            at,
            what,
            seq,
            message: id,
        };
        let live = self.groups[group].inbox.group().waiting() + self.context_len(group);
        self.later(group); // makes it
        let Some(later) = self.groups[group].later_mut() else {
            return;
        };
        later.push(deadline, live, &self.messages);
        self.deadlines.set(group, later.next_at());
    }

    /// Everything that was to happen in a group before `until`, in the order of its times.
    pub(crate) fn advance(&mut self, group: GroupId, until: Time, out: &mut Outbox<P>) {
        loop {
            let Some(later) = self.groups[group].later_mut() else {
                return;
            };
            if later.next_at() >= until {
                self.deadlines.set(group, later.next_at());
                return;
            }
            let Some(Reverse(deadline)) = later.heap.pop() else {
                return;
            };
            if !deadline.is_live(&self.messages) {
                continue;
            }
            let moment = std::mem::replace(&mut self.moment, deadline.at);
            match (deadline.what, deadline.message) {
                (What::Delay, Some(id)) => self.end_delay(group, id, deadline.at, out),
                (What::Expiry, Some(id)) => self.expire(group, id, deadline.at, out),
                (What::Saved, _) => self.expire_saved(group, deadline.at, out),
                _ => self.stop_typing(group, deadline.at, out),
            }
            self.moment = moment;
        }
    }

    /// A message that has arrived expires unless it starts in time (rule F6).
    pub(crate) fn expire_later(&mut self, group: GroupId, id: MessageId) {
        let ttl = self.groups[group].settings(&self.profile).ttl;
        let expires = self.messages.expires_at(id, ttl);
        if expires != Time::NEVER {
            self.remind(group, expires.just_after(), What::Expiry, Some(id));
        }
    }

    fn expire(&mut self, group: GroupId, id: MessageId, at: Time, out: &mut Outbox<P>) {
        let place = self.messages[id].place();
        if place == Place::Held {
            if !self.messages[id].has(Flag::Context) {
                self.expire_held(group, id, out);
            }
            return;
        }
        if place == Place::Lane && self.messages[id].has(Flag::Started) {
            return; // what an interruption brought back does not expire
        }
        if place == Place::Lane
            && let Some(lane) = self.lane_holding(group, id)
        {
            // A window that was due before is due for good, though nobody has looked since.
            self.close_if_overdue(lane, at, out);
        }
        let reason = if place == Place::Context {
            "context_ttl"
        } else {
            "ttl"
        };
        self.leave(group, id, End::Expired, reason, out);
    }

    /// A delay is over: the message arrives (rule T4).
    fn end_delay(&mut self, group: GroupId, id: MessageId, at: Time, out: &mut Outbox<P>) {
        self.later(group).delayed -= 1;
        let room = &mut self.groups[group];
        let at = at.max(room.last_at);
        room.last_at = at;
        let message = &mut self.messages[id];
        message.unset(Flag::Delayed);
        message.at = at;
        self.enter(group, id, out);
        self.shed(group, out); // it may have entered a band that holds less
    }

    /// Every delay ends now: the queue is closing (rule C8).
    pub(crate) fn end_delays(&mut self, out: &mut Outbox<P>) {
        let groups: Vec<_> = self.groups.iter().map(|(id, _)| id).collect();
        for group in groups {
            for (seq, id) in self.delayed_in(group) {
                // Those before it may have made the group drop it.
                if self.messages.get(id, seq).is_some() {
                    self.end_delay(group, id, self.now, out);
                }
            }
        }
    }

    /// Messages of a group that have yet to arrive, in push order.
    pub(crate) fn delayed_in(&self, group: GroupId) -> Vec<(Seq, MessageId)> {
        let Some(later) = self.groups[group].later() else {
            return Vec::new();
        };
        let live = later.heap.iter().filter(|deadline| {
            deadline.0.what == What::Delay && deadline.0.is_live(&self.messages)
        });
        let named = live.filter_map(|deadline| Some((deadline.0.seq, deadline.0.message?)));
        let mut delayed: Vec<_> = named.collect();
        delayed.sort_unstable();
        delayed
    }
}
