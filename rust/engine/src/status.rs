//! What one may ask: how a group is, which groups there are, whether a message is still there.

use compact_str::CompactString;

use crate::engine::{Engine, Outbox};
use crate::ids::{GroupId, MessageId};
use crate::message::Kind;
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
        let group = &self.groups[id];
        if self.is_over(group) {
            return None; // as good as forgotten; the sweep will come by
        }
        let mut status = Status {
            paused: group.paused,
            senders: u64::from(group.senders),
            ..Status::default()
        };
        for lane in self.lanes_of(id) {
            let head = self.lanes[lane].head();
            status.waiting += u64::from(self.lanes[lane].waiting);
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
        let given = self.groups[group]
            .inbox
            .group()
            .ids()
            .as_ref()
            .is_some_and(|ids| ids.is_live(id));
        given || Seq::from_automatic_id(id).is_some_and(|seq| self.holds(group, seq))
    }

    /// Arrival of the oldest message that waits anywhere.
    pub fn oldest_at(&self) -> Option<Time> {
        self.lanes
            .iter()
            .filter_map(|(_, lane)| lane.head())
            .map(|head| self.messages[head].at)
            .min()
    }

    /// Whether nothing waits and nothing runs (rule C7).
    pub fn idle(&mut self, now: Time, out: &mut Outbox<P>) -> bool {
        self.catch_up_before(now, out);
        // What is accepted counts, also while its producer has yet to put the inbox on the list.
        self.messages.len() == 0 && self.intake.depth() == 0
    }

    /// Whether nothing runs and what waits is held by nothing but a pause. Ask after a poll.
    pub fn stuck(&self) -> bool {
        self.running == 0
            && (self.paused.is_some()
                || self
                    .groups
                    .iter()
                    .all(|(_, group)| group.activity.is_none() || group.paused))
    }

    fn holds(&self, group: GroupId, seq: Seq) -> bool {
        let waiting = self
            .lanes_of(group)
            .filter_map(|lane| self.lanes[lane].head());
        let leases = self.leases.iter().filter(|(_, lease)| lease.group == group);
        let mut firsts = waiting.chain(leases.map(|(_, lease)| lease.first));
        firsts.any(|first| {
            self.messages
                .chain(Some(first))
                .any(|id| self.messages[id].seq() == seq && self.has_no_id(id))
        })
    }

    fn has_no_id(&self, id: MessageId) -> bool {
        self.messages
            .extra(id)
            .is_none_or(|extra| extra.id.is_none())
    }

    fn name_of(&self, id: MessageId) -> MessageName {
        match self.messages.extra(id).and_then(|extra| extra.id.clone()) {
            Some(given) => MessageName::Given(given),
            None => MessageName::Automatic(self.messages[id].seq()),
        }
    }
}
