//! Listening (section X): messages without a call of their own, which the next call of the group gets.

use std::collections::VecDeque;

use crate::Time;
use crate::admission::Arrival;
use crate::deadlines::What;
use crate::engine::{Engine, Outbox};
use crate::ids::{GroupId, LaneId, MessageId, SenderId};
use crate::ledger::End;
use crate::message::{Flag, Messages};

/// What waits for the next call of a group, oldest first.
#[derive(Default)]
pub(crate) struct Context {
    messages: VecDeque<MessageId>,
}

impl Context {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = MessageId> {
        self.messages.iter().copied()
    }

    pub(crate) fn push(&mut self, id: MessageId) {
        self.messages.push_back(id);
    }

    pub(crate) fn remove(&mut self, id: MessageId) {
        if self.messages.front() == Some(&id) {
            self.messages.pop_front();
        } else {
            self.messages.retain(|&other| other != id);
        }
    }
}

impl<P> Engine<P> {
    pub(crate) fn context(&mut self, group: GroupId) -> &mut Context {
        self.room(group).context.get_or_insert_default()
    }

    pub(crate) fn context_len(&self, group: GroupId) -> u32 {
        let context = self.groups[group].context();
        context.map_or(0, |context| context.len() as u32)
    }

    pub(crate) fn context_of(&self, group: GroupId) -> Vec<MessageId> {
        let context = self.groups[group].context();
        context.map_or_else(Vec::new, |context| context.iter().collect())
    }

    /// Keeps a message for the next call (rule X1).
    pub(crate) fn listen(
        &mut self,
        group: GroupId,
        arrival: Arrival<P>,
        sender: SenderId,
        out: &mut Outbox<P>,
    ) {
        let at = arrival.at;
        let own = arrival.extra.as_ref().and_then(|extra| extra.ttl);
        let id = self.take_down(arrival, sender);
        self.beside += 1;
        if self.is_diverted(group) {
            self.messages[id].unset(Flag::Context);
            self.messages[id].set(Flag::Listened);
            self.arrive_at_fallback(group, id, out);
            return;
        }
        let ttl = self.groups[group].settings(&self.profile).context_ttl;
        let expires = at.after(own.map_or(ttl, |own| own.min(ttl)));
        if expires != Time::NEVER {
            self.remind(group, expires.just_after(), What::Expiry, Some(id));
        }
        self.context(group).messages.push_back(id);
        self.trim_context(group, out);
    }

    /// Evicts the oldest beyond the limit.
    pub(crate) fn trim_context(&mut self, group: GroupId, out: &mut Outbox<P>) {
        let limit = self.groups[group].settings(&self.profile).context_limit;
        while self.context_len(group) > limit {
            let Some(oldest) = self.context(group).messages.front().copied() else {
                return;
            };
            self.leave(group, oldest, End::Evicted, "context_limit", out);
        }
    }

    /// The whole context goes along with a call of a lane that starts (rule X2): its messages, linked,
    /// behind those that came back with what was interrupted.
    pub(crate) fn take_context(
        &mut self,
        group: GroupId,
        lane: LaneId,
    ) -> (Option<MessageId>, u32) {
        if self.lanes[lane].fallback {
            return (None, 0);
        }
        let again = self.lanes[lane].context.take();
        let (again, before) = again.map_or((None, 0), |(first, count)| (Some(first), count));
        let room = self.groups[group].room.as_mut();
        let Some(context) = room.and_then(|room| room.context.take()) else {
            return (again, before);
        };
        let first = context.messages.front().copied();
        link(&mut self.messages, &context.messages);
        let count = context.messages.len() as u32;
        self.beside -= u64::from(count);
        if let Some(last) = self.messages.chain(again).last() {
            self.messages[last].next = first;
        }
        (again.or(first), before + count)
    }

    /// What a call had as context is there for the next one: nothing is left of what it came back with.
    pub(crate) fn listen_again(
        &mut self,
        group: GroupId,
        first: MessageId,
        count: u32,
        out: &mut Outbox<P>,
    ) {
        let again: Vec<_> = self.messages.chain(Some(first)).collect();
        for &id in again.iter().rev() {
            self.messages[id].unset(Flag::Held);
            self.messages[id].unset(Flag::Started);
            self.context(group).messages.push_front(id);
        }
        let count = u64::from(count);
        self.ledger.retrying -= count;
        self.ledger.waiting += count;
        self.beside += count;
        self.trim_context(group, out);
    }
}

fn link<P>(messages: &mut Messages<P>, ids: &VecDeque<MessageId>) {
    for (place, &id) in ids.iter().enumerate() {
        messages[id].next = ids.get(place + 1).copied();
    }
}
