//! The right to run one call for a batch, from its start to its end.

use std::num::NonZeroU32;

use compact_str::CompactString;

use crate::admission::Shared;
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{ActivityId, GroupId, LaneId, LeaseSlot, MessageId};
use crate::ledger::End;
use crate::message::{Flag, Kind, Messages};
use crate::order::{HeldUp, Score, weighed};
use crate::sender::Senders;
use crate::settings::Lanes;
use crate::slab::Key as _;
use crate::status::MessageName;
use crate::window::ClosedBy;
use crate::{Points, Seq, Size, Strategy, Time};

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
    /// None for a call beside everything.
    pub(crate) lane: Option<LaneId>,
    pub(crate) first: MessageId,
    pub(crate) messages: u32,
    pub(crate) started: Time,
    pub(crate) kind: Kind,
    pub(crate) closed_by: ClosedBy,
    generation: u32,
    /// First of the context that went along, and how many.
    context: Option<MessageId>,
    context_len: u32,
    evicted: Option<Box<[MessageName]>>,
    /// Why it started: what it had to say for itself, and where its sender and its group stood.
    pub(crate) score: Score,
    pub(crate) standing: Points,
    pub(crate) group_standing: Points,
    pub(crate) strategy: Strategy,
    lanes: Lanes,
}

impl Lease {
    pub(crate) fn id(&self, slot: LeaseSlot) -> LeaseId {
        let generation = self.generation;
        LeaseId { slot, generation }
    }

    /// First of its messages, and of its context.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = MessageId> {
        [Some(self.first), self.context].into_iter().flatten()
    }
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
    pub rank: Points,
    pub flush: bool,
    pub standalone: bool,
    pub real_time: bool,
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

    /// Whether it runs beside everything.
    pub fn is_bypass(&self) -> bool {
        self.lease.lane.is_none()
    }

    fn tell(&self, first: Option<MessageId>) -> impl Iterator<Item = BatchMessage<'_, P>> {
        self.messages.chain(first).map(|id| {
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
                rank: extra.map_or(Points::ZERO, |extra| extra.rank),
                flush: message.has(Flag::Flush),
                standalone: message.has(Flag::Standalone),
                real_time: message.has(Flag::RealTime),
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

    /// Calls that have started and not ended, in no particular order.
    pub fn calls(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.iter().map(|(slot, lease)| LeaseId {
            slot,
            generation: lease.generation,
        })
    }

    /// Starts the batch that goes first, if one may.
    pub(crate) fn start(&mut self, out: &mut Outbox<P>) -> Option<LeaseId> {
        if let Some(lease) = self.start_bypass(out) {
            return Some(lease);
        }
        self.token_at = Time::NEVER;
        let most = self.profile.settings.max_concurrent;
        if self.paused.is_some() || most.is_some_and(|most| self.running >= most) {
            return None;
        }
        let (group, activity, lane) = self.best()?;
        if let Some(bucket) = &self.bucket
            && bucket.free_at() > self.now
        {
            self.token_at = bucket.free_at();
            return None;
        }
        let many = self.groups[group].settings(&self.profile).lanes == Lanes::Message;
        self.leave_lane(lane);
        let lease = self.lease(group, lane, out);
        self.serve(group, activity, lane);
        // Under `lanes="message"` what is left of the lane goes on competing.
        if many && self.lanes[lane].head().is_some() {
            self.score(lane);
            self.enter_lane(lane);
        } else {
            self.lanes[lane].able = false;
        }
        self.offer_anew(group, activity);
        Some(lease)
    }

    /// Charges a start at both levels (rule O5), and takes its tokens.
    fn serve(&mut self, group: GroupId, activity: ActivityId, lane: LaneId) {
        let cost = self.cost_of_start(group, self.lanes[lane].sender);
        let score = self.lanes[lane].score.total();
        let sender = &mut self.senders[self.lanes[lane].sender];
        let group = &mut self.groups[group];
        let competitors = self.activities[activity].competitors;
        let mut served = group.now_served();
        served.advance(cost, competitors, sender.standing.minus(score));
        group.set_now_served(served);
        sender.standing = sender.standing.plus(cost);

        let behind = group.standing.minus(score);
        self.served
            .advance_by_weight(Points::CALL, self.weights, behind);
        let weight = group.settings(&self.profile).weight;
        group.standing = group.standing.plus(weighed(Points::CALL, weight));

        let own = group.room.as_mut().and_then(|room| room.bucket.as_mut());
        for bucket in own
            .map(|bucket| &mut **bucket)
            .into_iter()
            .chain(&mut self.bucket)
        {
            bucket.take(self.now);
        }
    }

    fn lease(&mut self, group: GroupId, id: LaneId, out: &mut Outbox<P>) -> LeaseId {
        let offer = self.lanes[id].offer();
        let (first, messages) =
            if self.groups[group].settings(&self.profile).lanes == Lanes::Message {
                let first = offer.expect("an able lane has something due");
                self.take_out(id, first);
                (first, 1)
            } else {
                self.lanes[id]
                    .take_window(&mut self.messages)
                    .expect("an able lane has something due")
            };
        let lane = &mut self.lanes[id];
        lane.running += 1;
        let (sender, score, activity) = (lane.sender, lane.score, lane.activity);
        let activity = &mut self.activities[activity];
        activity.running += 1;
        activity.waiting -= messages;
        self.running += 1;
        let (context, context_len) = self.take_context(group);
        self.release(group, messages);
        let lease = Lease {
            group,
            lane: Some(id),
            first,
            messages,
            started: self.now,
            kind: Kind::Single,
            closed_by: self.messages[first].closed_by(),
            generation: 0,
            context,
            context_len,
            evicted: self.take_evicted(sender),
            score,
            standing: self.senders[sender].standing,
            group_standing: self.groups[group].standing,
            strategy: self.groups[group].strategy(&self.profile),
            lanes: self.groups[group].settings(&self.profile).lanes,
        };
        self.begin(lease, out)
    }

    pub(crate) fn lease_bypass(
        &mut self,
        group: GroupId,
        first: MessageId,
        out: &mut Outbox<P>,
    ) -> LeaseId {
        let lease = Lease {
            group,
            lane: None,
            first,
            messages: 1,
            started: self.now,
            kind: Kind::Single,
            closed_by: ClosedBy::Bypass,
            generation: 0,
            context: None,
            context_len: 0,
            evicted: None,
            score: Score::default(),
            standing: Points::ZERO,
            group_standing: Points::ZERO,
            strategy: self.groups[group].strategy(&self.profile),
            lanes: self.groups[group].settings(&self.profile).lanes,
        };
        self.bypass_calls += 1;
        self.begin(lease, out)
    }

    /// Makes it a running call.
    fn begin(&mut self, mut lease: Lease, out: &mut Outbox<P>) -> LeaseId {
        let mut next = Some(lease.first);
        while let Some(id) = next {
            let message = &mut self.messages[id];
            next = message.next;
            message.set(Flag::Running);
            lease.kind = lease.kind.max(message.kind());
            let waited = self.now.micros_since(message.at);
            self.metrics.record_wait(lease.strategy, waited);
        }
        self.generation = self.generation.wrapping_add(1);
        lease.generation = self.generation;
        let taken = u64::from(lease.messages) + u64::from(lease.context_len);
        self.ledger.waiting -= taken;
        self.ledger.running += taken;
        self.metrics
            .start(lease.messages, lease.kind, lease.closed_by, lease.strategy);
        let (group, first) = (lease.group, lease.first);
        let (messages, kind, closed_by) = (lease.messages, lease.kind, lease.closed_by);
        let slot = self.leases.insert(lease);
        let generation = self.generation;
        let lease = LeaseId { slot, generation };
        if self.observed {
            out.events.push(Event::BatchLeased {
                lease,
                group: self.groups[group].name().clone(),
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
            context,
            context_len,
            strategy,
            ..
        } = self.leases.remove(lease.slot);
        self.ledger.running -= u64::from(messages) + u64::from(context_len);
        let micros = self.now.micros_since(started);
        self.metrics.settle(end == End::Done, micros);
        if self.observed {
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
                handling: self.now.since(started),
            });
        }
        for first in [Some(first), context] {
            self.end_messages(group, first, end, reason, Some(lease), out);
        }
        if let Some(lane) = lane {
            self.correct(group, lane, strategy, micros, end == End::Done);
            self.free_slot(group, lane, out);
        } else {
            self.bypass_calls -= 1;
            self.intake.end_bypass();
            self.groups[group].last_at = self.now;
        }
        Ok(())
    }

    /// Charges what the call cost in time beyond what it was charged at its start (rules O6, O7).
    fn correct(&mut self, id: GroupId, lane: LaneId, then: Strategy, micros: u64, done: bool) {
        let (within, between) = self.corrections(id, micros, done);
        if then == Strategy::LoadBalanced && within != Points::ZERO {
            let sender = &mut self.senders[self.lanes[lane].sender];
            sender.standing = sender.standing.plus(within);
            self.reenter_lane(lane);
        }
        if between != Points::ZERO {
            let group = &mut self.groups[id];
            let weight = group.settings(&self.profile).weight;
            group.standing = group.standing.plus(weighed(between, weight));
        }
    }

    fn free_slot(&mut self, group: GroupId, id: LaneId, out: &mut Outbox<P>) {
        let lane = &mut self.lanes[id];
        let key = lane.activity;
        let activity = &mut self.activities[key];
        self.running -= 1;
        activity.running -= 1;
        lane.running -= 1;
        activity.competitors -= u32::from(lane.running == 0 && !lane.able);
        if activity.running == 0 && !activity.is_able() {
            self.count_group(group, key, false);
        }
        let lane = &self.lanes[id];
        let many = self.groups[group].settings(&self.profile).lanes == Lanes::Message;
        if lane.is_over() {
            self.drop_lane(id, out);
        } else if lane.running == 0 && !lane.able {
            self.end_lane_call(id, out);
        }
        if many {
            self.read_size(group, out);
        }
        self.offer_group(group, HeldUp::ByItself);
    }
}
