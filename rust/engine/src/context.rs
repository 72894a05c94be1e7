//! Listening (section X): messages without a call of their own, which the next call of the group gets.

use std::collections::VecDeque;

use crate::Time;
use crate::admission::Arrival;
use crate::deadlines::What;
use crate::engine::{Engine, Outbox};
use crate::ids::{GroupId, MessageId, SenderId};
use crate::ledger::End;
use crate::message::Messages;

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

    /// The whole context goes along with a call that starts (rule X2): its messages, linked.
    pub(crate) fn take_context(&mut self, group: GroupId) -> (Option<MessageId>, u32) {
        let room = self.groups[group].room.as_mut();
        let Some(context) = room.and_then(|room| room.context.take()) else {
            return (None, 0);
        };
        let first = context.messages.front().copied();
        link(&mut self.messages, &context.messages);
        let count = context.messages.len() as u32;
        self.beside -= u64::from(count);
        (first, count)
    }
}

fn link<P>(messages: &mut Messages<P>, ids: &VecDeque<MessageId>) {
    for (place, &id) in ids.iter().enumerate() {
        messages[id].next = ids.get(place + 1).copied();
    }
}
