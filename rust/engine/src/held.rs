//! Batches that have been handed over before and will be again: they go before anything newer of their
//! lane, as they were (promise P2).

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{GroupId, HeldId, LaneId, MessageId, SenderId};
use crate::lease::Lease;
use crate::ledger::End;
use crate::message::{Flag, Kind, Messages};
use crate::order::{HeldUp, Score};
use crate::saved::Saved;
use crate::settings::{Jitter, Lanes};
use crate::window::ClosedBy;
use crate::{Points, Seq, Settings, Time};

/// A batch between two of its calls.
#[allow(clippy::struct_excessive_bools)] // what is known of it
pub(crate) struct Held<P> {
    pub(crate) first: MessageId,
    pub(crate) messages: u32,
    /// First of the context that goes along with it, and how many.
    pub(crate) context: Option<MessageId>,
    pub(crate) context_len: u32,
    /// Attempts at it so far.
    pub(crate) attempts: u32,
    /// When it may start again, and whether that has come.
    pub(crate) until: Time,
    pub(crate) due: bool,
    pub(crate) kind: Kind,
    pub(crate) closed_by: ClosedBy,
    /// That of its first call.
    pub(crate) score: Score,
    /// What the last attempt failed of; none of a batch that was only put off.
    pub(crate) error: Option<Arc<P>>,
    pub(crate) failed: bool,
    /// It was put off by an interruption or a cancellation.
    pub(crate) put_off: bool,
    /// Its next start has been charged already.
    pub(crate) charged: bool,
    /// Where each message is for itself: the one that it goes behind.
    pub(crate) behind: Option<(MessageId, Seq)>,
    /// What its calls have saved.
    pub(crate) saved: Saved<P>,
    /// A part of a batch that failed as a whole: it has this one attempt.
    pub(crate) part: bool,
    /// Takes over the context of the part before it.
    pub(crate) inherits: bool,
}

impl<P> Engine<P> {
    /// Puts a batch back, in front of its lane.
    pub(crate) fn hold(
        &mut self,
        lane: LaneId,
        held: Held<P>,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) {
        let group = self.lanes[lane].group;
        if self.is_diverted(group) && !self.lanes[lane].fallback {
            self.ledger.retrying += u64::from(held.messages + held.context_len);
            for first in [Some(held.first), held.context] {
                self.messages.move_on(first, Flag::Running, None);
            }
            let all = self.forget_batch(held, out);
            self.divert(group, all, out);
            return;
        }
        let (first, count) = (held.first, u64::from(held.messages + held.context_len));
        for first in [Some(held.first), held.context] {
            self.messages
                .move_on(first, Flag::Running, Some(Flag::Held));
        }
        self.ledger.retrying += count;
        let group = self.lanes[lane].group;
        if self.observed {
            let until = held.until;
            out.events.push(Event::BatchHeld {
                group: self.groups[group].name().clone(),
                sender: self.senders[self.messages[first].sender].name.clone(),
                at: self.now,
                messages: held.messages,
                attempts: held.attempts,
                until: (until > self.now && until != Time::NEVER).then_some(until),
                reason,
            });
        }
        let id = self.held.insert(held);
        self.lanes[lane].held.push_front((id, first));
        self.lanes[lane].ahead += 1;
        let until = self.held[id].until;
        self.lanes[lane].backs_off |= until > self.now && !self.lanes_are(lane, Lanes::Message);
        self.touch(lane);
    }

    /// Says that the messages of a call will be handed over again.
    pub(crate) fn tell_held(
        &self,
        lane: LaneId,
        lease: &Lease<P>,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) {
        if self.observed {
            out.events.push(Event::BatchHeld {
                group: self.groups[self.lanes[lane].group].name().clone(),
                sender: self.senders[self.messages[lease.first].sender].name.clone(),
                at: self.now,
                messages: lease.messages,
                attempts: lease.attempt - 1,
                until: None,
                reason,
            });
        }
    }

    /// Batches of a lane whose time has come before `until`.
    pub(crate) fn look_at_held(&mut self, id: LaneId, until: Time) -> Time {
        let alone = self.lanes_are(id, Lanes::Message);
        let waiting: Vec<_> = self.lanes[id].held.iter().copied().collect();
        let (mut next, mut backs_off, mut stood) = (Time::NEVER, false, false);
        for (held, first) in waiting {
            let record = &mut self.held[held];
            if !record.due && record.until < until {
                record.due = true;
                let score = record.score;
                if alone {
                    let group = self.lanes[id].group;
                    let claim = self.claim(group, Points::ZERO, score, first);
                    self.lanes[id].stand(first, claim, score, &self.messages);
                    stood = true;
                }
            }
            if !self.held[held].due {
                next = next.min(self.held[held].until);
                backs_off = !alone;
            }
            if !alone {
                break; // those behind it wait for it
            }
        }
        if stood {
            self.rescore(id);
        }
        self.lanes[id].backs_off = backs_off && self.lanes[id].again().is_some();
        next
    }

    /// The batch that a lane puts forward, if that has been handed over before, to be so again.
    pub(crate) fn take_held(&mut self, id: LaneId, first: MessageId) -> Option<Held<P>> {
        let held = &mut self.lanes[id].held;
        let place = held.iter().position(|&(_, other)| other == first)?;
        let (key, _) = held.remove(place)?;
        let ahead = &mut self.lanes[id].ahead;
        *ahead -= u32::from(place < *ahead as usize);
        Some(self.held.remove(key))
    }

    /// The same for a batch, or a part of it, that will not be.
    fn unhold(&mut self, id: LaneId, first: MessageId) -> Option<Held<P>> {
        let held = self.take_held(id, first)?;
        for first in [Some(held.first), held.context] {
            self.messages.move_on(first, Flag::Held, None);
        }
        self.ledger.retrying -= u64::from(held.messages + held.context_len);
        Some(held)
    }

    /// Ends everything that a lane is to hand over again. Returns how many messages.
    pub(crate) fn end_held(
        &mut self,
        id: LaneId,
        end: End,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) -> u64 {
        let group = self.lanes[id].group;
        let mut count = 0;
        while let Some(&(_, first)) = self.lanes[id].held.front() {
            let Some(held) = self.unhold(id, first) else {
                break;
            };
            count += u64::from(held.messages + held.context_len);
            out.spent.extend(held.error);
            held.saved.forget(out);
            for first in [Some(held.first), held.context] {
                self.end_messages(group, first, end, reason, None, out);
            }
        }
        self.lanes[id].backs_off = false;
        count
    }

    /// A message that has failed before comes too late (rule F6).
    pub(crate) fn expire_held(&mut self, group: GroupId, id: MessageId, out: &mut Outbox<P>) {
        let Some((lane, key, first)) = self.held_with(group, id) else {
            return;
        };
        if !self.held[key].failed {
            return; // what was only put off does not expire
        }
        let Some(mut held) = self.unhold(lane, first) else {
            return;
        };
        let error = held.error.clone();
        let gone = self.split_off(&mut held, |other, _| other == id);
        self.end_failed(group, gone, "ttl", error.as_ref(), out);
        self.hold_rest(lane, held, "failed", (End::Dead, "ttl"), out);
        self.held_has_left(group, lane, out);
    }

    /// A message that waits to be handed over again ends, as one that was rolled back may (rule C4).
    pub(crate) fn leave_held(
        &mut self,
        group: GroupId,
        id: MessageId,
        end: End,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) {
        let Some((lane, _, first)) = self.held_with(group, id) else {
            return;
        };
        let place = self.lanes[lane].held.iter().position(|it| it.1 == first);
        let ahead = self.lanes[lane].ahead;
        let Some(mut held) = self.unhold(lane, first) else {
            return;
        };
        let gone = self.split_off(&mut held, |other, _| other == id);
        self.end_messages(group, gone, end, reason, None, out);
        self.hold_rest(lane, held, "interrupted", (end, reason), out);
        if let Some(place) = place
            && self.lanes[lane].held.len() > place
            && let Some(front) = self.lanes[lane].held.pop_front()
        {
            self.lanes[lane].held.insert(place, front); // as it was
            self.lanes[lane].ahead = ahead;
        }
        self.held_has_left(group, lane, out);
    }

    /// The batch with a message that waits to be handed over again.
    fn held_with(&self, group: GroupId, id: MessageId) -> Option<(LaneId, HeldId, MessageId)> {
        let lane = self.lane_holding(group, id)?;
        let mut queue = self.lanes[lane].held.iter();
        let holds = |&&(_, first): &&(HeldId, MessageId)| {
            self.messages.chain(Some(first)).any(|other| other == id)
        };
        queue.find(holds).map(|&(key, first)| (lane, key, first))
    }

    /// Ends what a sender has to be handed over again in a lane. Returns how many messages.
    pub(crate) fn end_held_of(
        &mut self,
        group: GroupId,
        lane: LaneId,
        sender: SenderId,
        out: &mut Outbox<P>,
    ) -> u64 {
        let mut count = 0;
        let all: Vec<_> = self.lanes[lane].held.iter().map(|&(_, it)| it).collect();
        for first in all.into_iter().rev() {
            let Some(mut held) = self.unhold(lane, first) else {
                continue;
            };
            let before = held.messages;
            let theirs = self.split_off(&mut held, |id, all| all[id].sender == sender);
            count += u64::from(before - held.messages);
            if held.messages == 0 {
                count += u64::from(held.context_len); // it goes along
            }
            self.end_messages(group, theirs, End::Cleared, "stopped", None, out);
            // From the last to the first, each to the front: they are as they were.
            self.hold_rest(lane, held, "failed", (End::Cleared, "stopped"), out);
        }
        if count > 0 {
            self.held_has_left(group, lane, out);
        }
        count
    }

    /// Something that a lane was to hand over again is gone.
    fn held_has_left(&mut self, group: GroupId, lane: LaneId, out: &mut Outbox<P>) {
        let record = &mut self.lanes[lane];
        if record.held.is_empty() {
            record.backs_off = false;
        }
        if record.is_over() {
            if record.able {
                self.disable_lane(lane);
                self.offer_group(group, HeldUp::No);
            }
            self.drop_lane(lane, out);
            return;
        }
        if record.running == 0 && record.held.is_empty() {
            self.end_lane_call(lane, out); // its backoff counted as part of its call
        } else {
            self.review_lane(lane, HeldUp::No);
        }
        self.rescore(lane);
        self.touch(lane); // its timer may have been that of what is gone
    }

    /// Puts back what is left of a batch; without a message of it, its context ends likewise.
    pub(crate) fn hold_rest(
        &mut self,
        lane: LaneId,
        held: Held<P>,
        reason: &'static str,
        (end, why): (End, &'static str),
        out: &mut Outbox<P>,
    ) {
        if held.messages > 0 {
            self.hold(lane, held, reason, out);
        } else {
            out.spent.extend(held.error);
            held.saved.forget(out);
            let group = self.lanes[lane].group;
            self.end_messages(group, held.context, end, why, None, out);
        }
    }

    /// Takes those messages out of a batch, linked.
    pub(crate) fn split_off(
        &mut self,
        held: &mut Held<P>,
        mut goes: impl FnMut(MessageId, &Messages<P>) -> bool,
    ) -> Option<MessageId> {
        let all = self.messages.chain(Some(held.first));
        let (out, stay): (Vec<_>, Vec<_>) = all.partition(|&id| goes(id, &self.messages));
        for list in [&out, &stay] {
            for (place, &id) in list.iter().enumerate() {
                self.messages[id].next = list.get(place + 1).copied();
            }
        }
        held.messages = stay.len() as u32;
        if let Some(&first) = stay.first() {
            held.first = first;
        }
        if !out.is_empty() {
            self.judge_anew(held);
        }
        out.first().copied()
    }

    /// Kind and score of what is a part of the batch that it was.
    pub(crate) fn judge_anew(&self, held: &mut Held<P>) {
        let Some(sender) = self.messages.chain(Some(held.first)).next() else {
            return;
        };
        let group = self.senders[self.messages[sender].sender].group;
        held.kind = Kind::Single;
        for id in self.messages.chain(Some(held.first)) {
            held.kind = held.kind.max(self.messages[id].kind());
        }
        held.score = self.score_all(group, self.messages.chain(Some(held.first)));
    }

    pub(crate) fn held_in(&self, group: GroupId) -> impl Iterator<Item = &Held<P>> {
        self.lanes_of(group)
            .flat_map(|lane| self.lanes[lane].held.iter())
            .map(|&(key, _)| &self.held[key])
    }

    /// When a batch that has failed so often may start again (rule F1).
    pub(crate) fn backoff(&mut self, settings: &Settings, attempts: u32) -> Time {
        let exponent = f64::from(attempts.saturating_sub(1));
        // No pause stays none: zero times infinity would be no number.
        let growth = settings.backoff_factor.powf(exponent).min(f64::MAX);
        let longest = settings.backoff.as_secs_f64() * growth;
        let longest = longest.min(settings.backoff_cap.as_secs_f64());
        let share = match settings.jitter {
            Jitter::None => 1.0,
            Jitter::Full => self.random(),
        };
        let micros = (longest * share * 1e6).round();
        self.now.after(Duration::from_micros(micros as u64))
    }

    /// From 0 to 1, by the engine's seed (`SplitMix64`).
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
