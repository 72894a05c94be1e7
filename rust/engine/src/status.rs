//! What one may ask: how a group is, which groups there are, whether a message is still there.

use compact_str::CompactString;

use crate::arrival::EVERYBODY;
use crate::engine::{Engine, Outbox};
use crate::ids::{ActivityId, MessageId};
use crate::message::{Flag, Kind};
use crate::{Seq, Time};

/// How a group is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The group itself is paused.
    pub paused: bool,
    /// Messages that wait.
    pub waiting: u64,
    /// Calls that run.
    pub running: u64,
    /// Messages in those calls.
    pub running_messages: u64,
    /// Senders remembered.
    pub senders: u64,
    /// Messages between two calls.
    pub retrying: u64,
    /// Messages in the context.
    pub context: u64,
    /// How large it is: senders active lately, or members as they were set.
    pub size: u32,
    /// Lanes in which something back-to-back or of a burst waits.
    pub back_to_back: u64,
    /// Messages of the running calls.
    pub current: Vec<MessageName>,
    /// Arrival of the oldest message that waits.
    pub oldest_at: Option<Time>,
}

/// What a message is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageName {
    /// Its own id.
    Given(Box<str>),
    /// It has none: its place in the push order.
    Automatic(Seq),
}

impl<P> Engine<P> {
    /// How a group is; none when it is not known, or forgotten.
    pub fn status(&mut self, now: Time, group: &str, out: &mut Outbox<P>) -> Option<Status> {
        let id = self.catch_up_in(now, group, out)?;
        if self.is_over(id) {
            return None; // as good as forgotten; the sweep will come by
        }
        let beside = self.delayed_in(id).len() as u64 + u64::from(self.context_len(id));
        let bypassing = self.bypass.iter().filter(|it| it.0 == id).count() as u64;
        let mut status = Status {
            paused: self.pauses.contains_key(&id),
            senders: u64::from(self.groups[id].senders)
                - u64::from(self.senders.find(id, EVERYBODY).is_some()),
            context: u64::from(self.context_len(id)),
            retrying: self.held_in(id).map(|held| u64::from(held.messages)).sum(),
            waiting: beside + bypassing,
            size: self.size_of(id),
            ..Status::default()
        };
        for lane in self.lanes_of(id) {
            let head = self.lanes[lane].head();
            let waiting = self.messages.chain(head);
            let started = waiting.filter(|&id| self.messages[id].has(Flag::Started));
            let started = started.count() as u64;
            status.waiting += u64::from(self.lanes[lane].waiting) - started;
            status.retrying += started;
            let quick = self
                .messages
                .chain(head)
                .any(|id| self.messages[id].kind() > Kind::Single);
            status.back_to_back += u64::from(quick);
            if let Some(at) = head.map(|head| self.messages[head].at) {
                status.oldest_at = Some(status.oldest_at.map_or(at, |oldest| oldest.min(at)));
            }
        }
        for (_, lease) in self.leases.iter().filter(|(_, lease)| lease.group == id) {
            status.running += 1;
            status.running_messages += u64::from(lease.messages);
            status.current.extend(
                self.messages
                    .chain(Some(lease.first))
                    .map(|id| self.name_of(id)),
            );
        }
        Some(status)
    }

    /// All groups known, the first pushed to first; those never pushed to last, by name.
    pub fn groups(&mut self, now: Time, out: &mut Outbox<P>) -> Vec<CompactString> {
        self.catch_up_before(now, out);
        self.forget_all_idle(out);
        let mut groups: Vec<_> = self
            .groups
            .iter()
            .map(|(_, group)| (group.first, group.name().clone()))
            .collect();
        groups.sort_unstable();
        groups.into_iter().map(|(_, name)| name).collect()
    }

    /// Whether a message waits, runs or retries.
    pub fn contains(&mut self, now: Time, group: &str, id: &str, out: &mut Outbox<P>) -> bool {
        let Some(group) = self.catch_up_in(now, group, out) else {
            return false;
        };
        self.find_message(group, id).is_some()
    }

    /// Arrival of the oldest message that waits anywhere.
    pub fn oldest_at(&self) -> Option<Time> {
        self.lanes
            .iter()
            .filter_map(|(_, lane)| lane.head())
            .map(|head| self.messages[head].at)
            .min()
    }

    /// Whether nothing waits and nothing runs, the context aside (rule C7).
    pub fn idle(&mut self, now: Time, out: &mut Outbox<P>) -> bool {
        self.catch_up_before(now, out);
        // What is accepted counts, also while its producer has yet to put the inbox on the list.
        let listened = self.beside - self.bypass.len() as u64;
        self.messages.len() as u64 == listened
            && self.intake.depth() == 0
            && self.intake.bypassing() == 0
    }

    /// Whether nothing runs and what waits is held by nothing but a pause. Ask after a poll.
    pub fn stuck(&self) -> bool {
        let paused = |activity: ActivityId| self.activities[activity].paused;
        self.leases.len() == 0
            && self.bypass.is_empty()
            && (self.paused.is_some()
                || self
                    .groups
                    .iter()
                    .all(|(_, group)| group.activity.is_none_or(paused)))
    }

    pub(crate) fn has_no_id(&self, id: MessageId) -> bool {
        self.messages
            .extra(id)
            .is_none_or(|extra| extra.id.is_none())
    }

    pub(crate) fn name_of(&self, id: MessageId) -> MessageName {
        match self.messages.extra(id).and_then(|extra| extra.id.clone()) {
            Some(given) => MessageName::Given(given),
            None => MessageName::Automatic(self.messages[id].seq()),
        }
    }
}
