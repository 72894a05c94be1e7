//! The right to run one call for a batch, from its start to its end.

use std::num::NonZeroU32;

use compact_str::CompactString;

use crate::admission::Shared;
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{ActivityId, GroupId, LaneId, LeaseSlot, MessageId};
use crate::ledger::End;
use crate::message::{Flag, Kind, Messages};
use crate::order::{HeldUp, Points};
use crate::sender::Senders;
use crate::settings::Lanes;
use crate::slab::Key as _;
use crate::window::ClosedBy;
use crate::{Seq, Size, Time};

/// Names a lease. Slot and generation: a stale one is never mistaken for a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    slot: LeaseSlot,
    generation: u32,
}

impl LeaseId {
    /// As one number, for keeping it elsewhere.
    pub fn as_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot.slot().get())
    }

    /// The reverse of [`Self::as_u64`].
    pub fn from_u64(number: u64) -> Option<Self> {
        let slot = NonZeroU32::new(number as u32)?;
        Some(Self {
            slot: LeaseSlot::from_slot(slot),
            generation: (number >> 32) as u32,
        })
    }
}

/// A lease that has ended, or never was: what its call still does changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLost;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned.
    Done,
    /// It raised, or was cancelled.
    Failed {
        /// In a word.
        reason: &'static str,
    },
}

/// A running call.
pub(crate) struct Lease {
    pub(crate) group: GroupId,
    lane: LaneId,
    pub(crate) first: MessageId,
    pub(crate) messages: u32,
    started: Time,
    kind: Kind,
    closed_by: ClosedBy,
    generation: u32,
}

/// What a call is for.
pub struct Batch<'a, P> {
    group: &'a Shared,
    lease: &'a Lease,
    messages: &'a Messages<P>,
    senders: &'a Senders,
}

/// A message of a batch.
#[allow(missing_docs)] // as in `Options`
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
    pub flush: bool,
    pub standalone: bool,
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
        1
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
        self.messages.chain(Some(self.lease.first)).map(|id| {
            let message = &self.messages[id];
            let extra = self.messages.extra(id);
            BatchMessage {
                payload: &message.payload,
                seq: message.seq(),
                arrived_at: message.at,
                sender: &self.senders[message.sender].name,
                kind: message.kind(),
                id: extra.and_then(|extra| extra.id.as_deref()),
                at: extra.and_then(|extra| extra.at),
                size: extra.map_or(Size::ONE, |extra| extra.size),
                batch_key: extra.and_then(|extra| extra.batch_key.as_deref()),
                flush: message.has(Flag::Flush),
                standalone: message.has(Flag::Standalone),
            }
        })
    }
}

impl<P> Engine<P> {
    /// What a running call is for; none once the lease is lost.
    pub fn batch(&self, lease: LeaseId) -> Option<Batch<'_, P>> {
        let lease = self
            .leases
            .get(lease.slot)
            .filter(|found| found.generation == lease.generation)?;
        let group = self.groups[lease.group].inbox.group();
        Some(Batch {
            group,
            lease,
            messages: &self.messages,
            senders: &self.senders,
        })
    }

    /// Starts the batch that goes first, if one may.
    pub(crate) fn start(&mut self, out: &mut Outbox<P>) -> Option<LeaseId> {
        let full = self
            .settings
            .max_concurrent
            .is_some_and(|cap| self.running >= cap);
        if self.paused.is_some() || full {
            return None;
        }
        let (group, activity, lane) = self.best()?;
        self.leave_lane(lane);
        self.serve(group, activity, lane);
        let lease = self.lease(group, lane, out);
        // Under `lanes="message"` what is left of the lane goes on competing.
        if self.settings.lanes == Lanes::Message && self.lanes[lane].head().is_some() {
            self.enter_lane(lane);
        } else {
            self.lanes[lane].able = false;
        }
        self.offer_anew(group, activity);
        Some(lease)
    }

    /// Charges a start at both levels (rule O5).
    fn serve(&mut self, group: GroupId, activity: ActivityId, lane: LaneId) {
        let sender = &mut self.senders[self.lanes[lane].sender];
        let group = &mut self.groups[group];
        let competitors = self.activities[activity].competitors;
        group
            .served
            .advance(Points::CALL, competitors, sender.standing);
        sender.standing = sender.standing.plus(Points::CALL);
        self.served
            .advance(Points::CALL, self.competitors, group.standing);
        group.standing = group.standing.plus(Points::CALL);
    }

    fn lease(&mut self, group: GroupId, lane: LaneId, out: &mut Outbox<P>) -> LeaseId {
        let (first, messages) = self.lanes[lane]
            .take_window(&mut self.messages)
            .expect("an able lane has something due");
        let mut kind = Kind::Single;
        for id in self.messages.chain(Some(first)) {
            let message = &self.messages[id];
            kind = kind.max(message.kind());
            self.metrics.wait.record(self.now.micros_since(message.at));
        }
        self.generation = self.generation.wrapping_add(1);
        let (started, generation, closed_by) =
            (self.now, self.generation, self.messages[first].closed_by());
        let slot = self.leases.insert(Lease {
            group,
            lane,
            first,
            messages,
            started,
            kind,
            closed_by,
            generation,
        });
        let lease = LeaseId { slot, generation };

        let activity = self.lanes[lane].activity;
        self.lanes[lane].running += 1;
        self.activities[activity].running += 1;
        self.running += 1;
        let group = &self.groups[group];
        self.intake.release(group.inbox.group(), messages);
        self.ledger.waiting -= u64::from(messages);
        self.ledger.running += u64::from(messages);
        self.metrics.start(messages, kind, closed_by);
        if self.observed {
            out.events.push(Event::BatchLeased {
                lease,
                group: group.name().clone(),
                sender: self.senders[self.messages[first].sender].name.clone(),
                at: self.now,
                messages,
                kind,
                closed_by,
                attempt: 1,
            });
        }
        lease
    }

    /// Ends a call and the messages in it; the lane goes on.
    pub(crate) fn end_call(
        &mut self,
        lease: LeaseId,
        end: End,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) -> Result<(), LeaseLost> {
        let current = self
            .leases
            .get(lease.slot)
            .is_some_and(|found| found.generation == lease.generation);
        if !current {
            return Err(LeaseLost);
        }
        let Lease {
            group,
            lane,
            first,
            messages,
            started,
            ..
        } = self.leases.remove(lease.slot);
        self.ledger.running -= u64::from(messages);
        self.metrics
            .settle(end == End::Done, self.now.micros_since(started));
        if self.observed {
            let handling = self.now.since(started);
            let (group, at, ok) = (
                self.groups[group].name().clone(),
                self.now,
                end == End::Done,
            );
            out.events.push(Event::BatchSettled {
                lease,
                group,
                at,
                messages,
                ok,
                reason,
                handling,
            });
        }
        self.end_messages(group, Some(first), end, reason, Some(lease), out);
        self.free_slot(group, lane, out);
        Ok(())
    }

    fn free_slot(&mut self, group: GroupId, id: LaneId, out: &mut Outbox<P>) {
        let lane = &mut self.lanes[id];
        let activity = &mut self.activities[lane.activity];
        self.running -= 1;
        activity.running -= 1;
        lane.running -= 1;
        activity.competitors -= u32::from(lane.running == 0 && !lane.able);
        self.competitors -= u32::from(activity.running == 0 && !activity.is_able());
        if lane.running == 0 && lane.waiting == 0 {
            self.drop_lane(id);
        } else if lane.running == 0 && !lane.able {
            self.end_lane_call(id, out);
        }
        self.offer_group(group, HeldUp::ByItself);
    }
}
