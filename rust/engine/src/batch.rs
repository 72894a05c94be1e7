//! What a call is for: its messages, and what is known of them.

use compact_str::CompactString;

use crate::engine::Engine;
use crate::ids::MessageId;
use crate::lease::{Lease, LeaseId};
use crate::limits::Shared;
use crate::message::{Flag, Kind, Messages};
use crate::order::Score;
use crate::sender::Senders;
use crate::settings::Lanes;
use crate::status::MessageName;
use crate::window::ClosedBy;
use crate::{Points, Seq, Size, Time};

/// What a call is for.
pub struct Batch<'a, P> {
    group: &'a Shared,
    lease: &'a Lease<P>,
    messages: &'a Messages<P>,
    senders: &'a Senders,
}

/// A message of a batch.
#[allow(missing_docs, clippy::struct_excessive_bools)] // as in `Options`
pub struct BatchMessage<'a, P> {
    pub payload: &'a P,
    pub seq: Seq,
    pub arrived_at: Time,
    pub sender: &'a CompactString,
    pub kind: Kind,
    pub id: Option<&'a str>,
    pub at: Option<Time>,
    pub size: Size,
    pub batch_key: Option<&'a str>,
    pub rank: Points,
    pub flush: bool,
    pub standalone: bool,
    pub real_time: bool,
    pub background: bool,
}

impl<P> Batch<'_, P> {
    /// The group's name.
    pub fn group(&self) -> &CompactString {
        &self.group.name
    }

    /// The highest kind among its messages.
    pub fn kind(&self) -> Kind {
        self.lease.kind
    }

    /// What made its window due.
    pub fn closed_by(&self) -> ClosedBy {
        self.lease.closed_by
    }

    /// Which attempt this call is, from 1.
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// When the call started.
    pub fn started_at(&self) -> Time {
        self.lease.started
    }

    /// Messages in it, at least one.
    #[allow(clippy::len_without_is_empty)] // a batch is never empty
    pub fn len(&self) -> usize {
        self.lease.messages as usize
    }

    /// Its messages, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = BatchMessage<'_, P>> {
        self.tell(Some(self.lease.first))
    }

    /// What was listened to since the group's last call, oldest first (rule X2).
    pub fn context(&self) -> impl Iterator<Item = BatchMessage<'_, P>> {
        self.tell(self.lease.context)
    }

    /// How much that is.
    pub fn context_len(&self) -> usize {
        self.lease.context_len as usize
    }

    /// What was evicted from its lane since the last call (rule W11).
    pub fn evicted(&self) -> &[MessageName] {
        self.lease.evicted.as_deref().unwrap_or_default()
    }

    /// What it had to say for itself when it started.
    pub fn score(&self) -> Score {
        self.lease.score
    }

    /// What shared a lane in its group when it started.
    pub fn lanes(&self) -> Lanes {
        self.lease.lanes
    }

    /// Whether it was put off, and is handed over again as it was (rule B4).
    pub fn resumed(&self) -> bool {
        self.lease.resumed
    }

    /// What the last call of this very batch saved, or this one since (rule H4).
    pub fn saved(&self) -> Option<&P> {
        self.lease.saved.state()
    }

    /// Whether what it saves and emits counts from its commit or success on (rule H6).
    pub fn is_transaction(&self) -> bool {
        self.lease.transaction && !self.lease.committed
    }

    /// Whether it goes to the fallback (rule C6).
    pub fn is_fallback(&self) -> bool {
        self.lease.fallback
    }

    /// Whether it runs beside everything.
    pub fn is_bypass(&self) -> bool {
        self.lease.lane.is_none()
    }

    fn tell(&self, first: Option<MessageId>) -> impl Iterator<Item = BatchMessage<'_, P>> {
        let all = self.messages.chain(first);
        all.map(|id| BatchMessage::of(self.messages, self.senders, id))
    }
}

impl<'a, P> BatchMessage<'a, P> {
    pub(crate) fn of(messages: &'a Messages<P>, senders: &'a Senders, id: MessageId) -> Self {
        let (message, extra) = (&messages[id], messages.extra(id));
        Self {
            payload: &message.payload,
            seq: message.seq(),
            arrived_at: message.at,
            sender: &senders[message.sender].name,
            kind: message.kind(),
            id: extra.and_then(|extra| extra.id.as_deref()),
            at: extra.and_then(|extra| extra.at),
            size: extra.map_or(Size::ONE, |extra| extra.size),
            batch_key: extra.and_then(|extra| extra.batch_key.as_deref()),
            rank: extra.map_or(Points::ZERO, |extra| extra.rank),
            flush: message.has(Flag::Flush),
            standalone: message.has(Flag::Standalone),
            real_time: message.has(Flag::RealTime),
            background: extra.is_some_and(|extra| extra.background),
        }
    }
}

impl<P> Engine<P> {
    /// What a running call is for; none once the lease is lost.
    pub fn batch(&self, lease: LeaseId) -> Option<Batch<'_, P>> {
        let lease = self.lease(lease)?;
        let group = self.groups[lease.group].inbox.group();
        Some(Batch {
            group,
            lease,
            messages: &self.messages,
            senders: &self.senders,
        })
    }
}
