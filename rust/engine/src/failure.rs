//! A call has ended: what becomes of its messages (section F).

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::{Engine, Outbox};
use crate::held::Held;
use crate::ids::{GroupId, LaneId, MessageId};
use crate::lease::{Fate, Heir, Lease, LeaseId, LeaseLost, Outcome, TIMEOUT};
use crate::ledger::End;
use crate::message::{Flag, Messages, Place};
use crate::saved::Saved;
use crate::settings::Lanes;
use crate::{Seq, Time};

/// A message that its handler has given up on, though the call itself ends well (rule F2).
#[derive(Debug)]
pub struct Failure<P> {
    /// Which.
    pub seq: Seq,
    /// What it failed of.
    pub error: Option<P>,
}

impl<P> Engine<P> {
    /// Ends a call. Starts nothing.
    pub fn settle(
        &mut self,
        now: Time,
        lease: LeaseId,
        outcome: Outcome<P>,
        out: &mut Outbox<P>,
    ) -> Result<(), LeaseLost> {
        self.settle_with(now, lease, outcome, Vec::new(), out)
    }

    /// The same, `failures` counting only if the call ends well.
    pub fn settle_with(
        &mut self,
        now: Time,
        id: LeaseId,
        outcome: Outcome<P>,
        failures: Vec<Failure<P>>,
        out: &mut Outbox<P>,
    ) -> Result<(), LeaseLost> {
        self.come_to_end(now, out);
        if self.lease(id).is_none() {
            return Err(LeaseLost);
        }
        self.finish(id, outcome, failures, out);
        Ok(())
    }

    /// A call is over, whatever its task still does. One whose end is decided ends as decided (rule H1).
    pub(crate) fn finish(
        &mut self,
        id: LeaseId,
        outcome: Outcome<P>,
        failures: Vec<Failure<P>>,
        out: &mut Outbox<P>,
    ) {
        out.ending.retain(|(ending, _)| *ending != id); // nobody has to be told any more
        let ending = self.leases[id.slot()].ending.take();
        let (outcome, fate, heir) = match ending {
            None => (self.judge(id, outcome), None, None),
            Some(ending) => {
                self.promised -= u32::from(ending.heir.is_some());
                let outcome = match ending.fate {
                    Fate::TimedOut => Outcome::Failed {
                        reason: TIMEOUT,
                        retry: true,
                        error: outcome.into_error(),
                    },
                    _ => Outcome::Abandoned {
                        reason: ending.reason,
                    },
                };
                (outcome, Some(ending.fate), ending.heir)
            }
        };
        let (ok, reason) = match &outcome {
            Outcome::Done => (true, "done"),
            Outcome::Failed { reason, .. } => (false, *reason),
            Outcome::Abandoned { reason } => (fate.is_some_and(Fate::comes_back), *reason),
            Outcome::Cancelled { .. } => (true, "cancelled"),
            Outcome::Snoozed(_) => (true, "snoozed"),
        };
        let Some(mut lease) = self.take_lease(id, ok, reason, out) else {
            return;
        };
        let group = lease.group;
        let Some(lane) = lease.lane else {
            let (end, reason) = match outcome {
                Outcome::Done
                    if failures
                        .iter()
                        .any(|it| it.seq == self.messages[lease.first].seq()) =>
                {
                    (End::Dead, "failed") // it is not tried again (rule A8)
                }
                Outcome::Done | Outcome::Snoozed(_) => (End::Done, "done"),
                Outcome::Failed { reason, .. } => (End::Dead, reason),
                Outcome::Cancelled { .. } => (End::Dead, "cancelled"),
                Outcome::Abandoned { reason } => (End::Abandoned, reason),
            };
            let from = out.ended.len();
            self.end_messages(group, Some(lease.first), end, reason, Some(id), out);
            if let (Some(ended), Some(failure)) =
                (out.ended.get_mut(from), failures.into_iter().next())
            {
                ended.error = failure.error.map(Arc::new);
            }
            lease.saved.forget(out);
            self.end_bypass_call(group);
            return;
        };
        if matches!(outcome, Outcome::Done) {
            lease.committed = true;
            lease.saved.commit(out);
        }
        match outcome {
            Outcome::Done if failures.is_empty() => self.forget_previous(lane, out),
            Outcome::Done => self.remember(lane, &mut lease, "failed", out),
            _ => self.remember(lane, &mut lease, reason, out),
        }
        match outcome {
            Outcome::Done => self.complete(id, &lease, lane, failures, out),
            Outcome::Abandoned { reason } => {
                self.end_as_decided(id, &lease, lane, (fate, reason), out);
            }
            Outcome::Snoozed(span) => {
                let until = self.now.after(span);
                let mut held = lease.put_back(lease.attempt - 1, until);
                held.failed = lease.attempt > 1;
                if held.failed {
                    self.hold_in_time(group, lane, held, "snoozed", out);
                } else {
                    self.hold(lane, held, "snoozed", out);
                }
            }
            Outcome::Cancelled { .. } => {
                self.metrics.put_back += 1;
                self.put_back(lane, &lease, (false, "cancelled"), out);
            }
            Outcome::Failed {
                reason,
                retry,
                error,
            } => self.fail(id, &lease, lane, (reason, retry, error), out),
        }
        lease.saved.forget(out);
        self.heirs.extend(heir); // before its lane may be gone
        self.free_slot(group, lane, out);
        if !self.held_back.is_empty() {
            self.ask_again(out);
        }
    }

    /// A cancellation from outside puts the messages back, unless that would be once too often (rule H7).
    fn judge(&self, id: LeaseId, outcome: Outcome<P>) -> Outcome<P> {
        match outcome {
            Outcome::Cancelled { error } if !self.would_go_back(id) => Outcome::Failed {
                reason: "cancelled",
                retry: true,
                error,
            },
            other => other,
        }
    }

    fn end_as_decided(
        &mut self,
        id: LeaseId,
        lease: &Lease<P>,
        lane: LaneId,
        (fate, reason): (Option<Fate>, &'static str),
        out: &mut Outbox<P>,
    ) {
        let (end, reason) = match fate {
            Some(Fate::Merged { as_new }) if lease.lanes != Lanes::Message => {
                self.lanes[lane].charged = true;
                if self.is_diverted(lease.group) {
                    return self.put_back(lane, lease, (as_new, reason), out);
                }
                return self.merge_back(lane, lease, as_new, out);
            }
            Some(Fate::Resumed { behind, as_new }) => {
                return self.put_behind(lane, lease, behind, as_new, out);
            }
            Some(Fate::PutBack { as_new } | Fate::Merged { as_new }) => {
                return self.put_back(lane, lease, (as_new, reason), out);
            }
            Some(Fate::Ended(end, reason)) => (end, reason),
            Some(Fate::Abandoned | Fate::TimedOut) | None => (End::Abandoned, reason),
        };
        if reason == INTERRUPTED {
            self.lanes[lane].charged = lease.lanes != Lanes::Message;
        }
        for first in [Some(lease.first), lease.context] {
            self.end_messages(lease.group, first, end, reason, Some(id), out);
        }
    }

    /// A batch goes back as it was, due, and its next start is not charged again (rules B4, B8, H7).
    fn put_back(
        &mut self,
        lane: LaneId,
        lease: &Lease<P>,
        (as_new, reason): (bool, &'static str),
        out: &mut Outbox<P>,
    ) {
        self.put_off_in(lane, lease, as_new);
        let mut held = lease.put_back(lease.attempt - 1, self.now);
        (held.put_off, held.charged) = (true, true);
        self.hold(lane, held, reason, out);
    }

    /// An interrupted batch goes right behind the call that interrupted it (rule B4).
    fn put_behind(
        &mut self,
        lane: LaneId,
        lease: &Lease<P>,
        behind: (MessageId, Seq),
        as_new: bool,
        out: &mut Outbox<P>,
    ) {
        self.put_off_in(lane, lease, as_new);
        let mut held = lease.put_back(lease.attempt - 1, self.now);
        held.put_off = true;
        let waits = self.messages.get(behind.0, behind.1).is_some();
        if lease.lanes == Lanes::Message {
            held.charged = true;
            if waits {
                held.until = Time::NEVER;
                held.behind = Some(behind);
                let entry = (lane, lease.first, self.messages[lease.first].seq());
                self.behind.entry(behind.0).or_default().push(entry);
            }
        } else {
            self.lanes[lane].charged = true;
        }
        self.hold(lane, held, INTERRUPTED, out);
        let message = self.messages.get(behind.0, behind.1);
        let waits = message.is_some_and(|message| message.place() == Place::Lane);
        if lease.lanes != Lanes::Message && waits {
            self.lanes[lane].interrupter = Some(behind.0);
            self.lanes[lane].ahead = 0;
        }
    }

    /// Its messages are put off, and with them those that wait to be resumed behind it (rule B5).
    fn put_off_in(&mut self, lane: LaneId, lease: &Lease<P>, as_new: bool) {
        self.messages.put_off_all(lease.first, as_new);
        if lease.lanes == Lanes::Message {
            for id in self.waiting_behind(lease.first) {
                let as_new = self.messages.put_off(id).rolled_back;
                self.messages.put_off_again(id, as_new);
            }
            return;
        }
        let behind: Vec<_> = self.lanes[lane].held.iter().copied().collect();
        for (key, first) in behind {
            if self.held[key].put_off {
                let as_new = self.messages.put_off(first).rolled_back;
                self.messages.put_off_all(first, as_new);
            }
        }
    }

    /// A message has ended that others were to go behind: they are due.
    pub(crate) fn follow(&mut self, id: MessageId, in_call: bool) {
        for (lane, first, seq) in self.behind.remove(&id).unwrap_or_default() {
            let held = self.lanes.get(lane).and_then(|lane| {
                let entry = lane.held.iter().find(|it| it.1 == first);
                entry.map(|&(key, _)| key)
            });
            let there = self.messages.get(first, seq).is_some();
            let Some(key) = held.filter(|&key| there && self.held[key].behind.is_some()) else {
                continue;
            };
            self.held[key].behind = None;
            self.held[key].until = self.now;
            self.touch(lane);
            if in_call {
                let message = Some((first, seq));
                self.heirs.push_back(Heir { lane, message });
            }
        }
    }

    /// It returned. Messages that it gave up on are tried again one by one, in push order.
    fn complete(
        &mut self,
        id: LeaseId,
        lease: &Lease<P>,
        lane: LaneId,
        failures: Vec<Failure<P>>,
        out: &mut Outbox<P>,
    ) {
        let group = lease.group;
        let failures = failures.into_iter().rev(); // of two for one message the first counts
        let mut errors: HashMap<_, _> = failures.map(|it| (it.seq, it.error)).collect();
        let mut held = lease.put_back(lease.attempt, self.now);
        let mut failed = Vec::new();
        if !errors.is_empty() {
            let gone = |id, all: &Messages<P>| errors.contains_key(&all[id].seq());
            let first = self.split_off(&mut held, gone);
            failed.extend(self.messages.chain(first));
        }
        if held.messages > 0 {
            self.end_messages(group, Some(held.first), End::Done, "done", Some(id), out);
        }
        self.end_context(lane, lease, End::Done, "done", id, out);
        failed.sort_by_key(|&message| self.messages[message].seq());
        for message in failed.into_iter().rev() {
            self.messages[message].next = None; // each is for itself
            let error = errors.remove(&self.messages[message].seq());
            let error = error.flatten().map(Arc::new);
            let settings = self.settings_of(lease).clone();
            if lease.attempt >= settings.max_attempts || lease.part || lease.fallback {
                self.end_failed(group, Some(message), "failed", error.as_ref(), out);
                continue;
            }
            let until = self.backoff(&settings, lease.attempt);
            let mut alone = lease.put_back(lease.attempt, until);
            alone.first = message;
            alone.messages = 1;
            (alone.context, alone.context_len) = (None, 0);
            alone.error = error;
            alone.failed = true;
            alone.saved = Saved::default();
            self.judge_anew(&mut alone);
            self.hold_in_time(group, lane, alone, "failed", out);
        }
    }

    /// It raised, or was too slow: its batch is tried again as it was, or in halves, or is dead.
    fn fail(
        &mut self,
        id: LeaseId,
        lease: &Lease<P>,
        lane: LaneId,
        (reason, retry, error): (&'static str, bool, Option<P>),
        out: &mut Outbox<P>,
    ) {
        let group = lease.group;
        let settings = self.settings_of(lease).clone();
        let error = error.map(Arc::new);
        let committed = lease.committed && !settings.retry_committed;
        let again = retry && !committed && !lease.fallback;
        if again && !lease.part && lease.attempt < settings.max_attempts {
            let until = self.backoff(&settings, lease.attempt);
            let mut held = lease.put_back(lease.attempt, until);
            held.error = error;
            held.failed = true;
            self.hold_in_time(group, lane, held, reason, out);
        } else if again && settings.split_failed && lease.messages > 1 {
            // The left half has the odd one and goes first; the context goes with it.
            let mut left = lease.put_back(lease.attempt, self.now);
            (left.part, left.failed, left.error) = (true, true, error.clone());
            left.saved = Saved::default();
            let mut place = 0;
            let keep = lease.messages.div_ceil(2);
            let right = self.split_off(&mut left, |_, _| {
                place += 1;
                place > keep
            });
            let mut other = lease.put_back(lease.attempt, self.now);
            (other.part, other.failed, other.error) = (true, true, error);
            other.messages = lease.messages - keep;
            (other.context, other.context_len) = (None, 0);
            other.saved = Saved::default();
            other.inherits = true;
            if let Some(right) = right {
                other.first = right;
                self.judge_anew(&mut other);
                self.hold(lane, other, "split", out);
            }
            self.hold(lane, left, "split", out);
        } else {
            let reason = if committed { "committed" } else { reason };
            self.end_messages(group, Some(lease.first), End::Dead, reason, Some(id), out);
            self.end_context(lane, lease, End::Dead, reason, id, out);
        }
    }

    /// Puts a batch back that has failed, without those that would come too late (rule F6).
    fn hold_in_time(
        &mut self,
        group: GroupId,
        lane: LaneId,
        mut held: Held<P>,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) {
        let ttl = self.groups[group].settings(&self.profile).ttl;
        let until = held.until;
        let late = self.split_off(&mut held, |id, all| all.expires_at(id, ttl) < until);
        self.end_failed(group, late, "ttl", held.error.as_ref(), out);
        self.hold_rest(lane, held, reason, (End::Dead, "ttl"), out);
    }

    /// Ends messages that have failed outside a call, with what they failed of.
    pub(crate) fn end_failed(
        &mut self,
        group: GroupId,
        first: Option<MessageId>,
        reason: &'static str,
        error: Option<&Arc<P>>,
        out: &mut Outbox<P>,
    ) {
        let from = out.ended.len();
        self.end_messages(group, first, End::Dead, reason, None, out);
        for ended in &mut out.ended[from..] {
            ended.error = error.cloned();
        }
    }

    /// The context ends with its call, unless another part of the same batch is still to come.
    fn end_context(
        &mut self,
        lane: LaneId,
        lease: &Lease<P>,
        end: End,
        reason: &'static str,
        id: LeaseId,
        out: &mut Outbox<P>,
    ) {
        let heir = self.lanes[lane].held.front().map(|&(key, _)| key);
        let heir = heir.filter(|&key| self.held[key].inherits);
        match (heir, lease.context) {
            (Some(key), Some(context)) => {
                let held = &mut self.held[key];
                (held.context, held.context_len) = (Some(context), lease.context_len);
                held.inherits = false;
                self.ledger.retrying += u64::from(lease.context_len);
                self.messages
                    .move_on(Some(context), Flag::Running, Some(Flag::Held));
            }
            _ => self.end_messages(lease.group, lease.context, end, reason, Some(id), out),
        }
    }
}

impl<P> Lease<P> {
    /// Its batch, to be handed over again.
    pub(crate) fn put_back(&self, attempts: u32, until: Time) -> Held<P> {
        Held {
            first: self.first,
            messages: self.messages,
            context: self.context,
            context_len: self.context_len,
            attempts,
            until,
            due: false,
            kind: self.kind,
            closed_by: self.closed_by,
            score: self.score,
            error: None,
            failed: false,
            put_off: false,
            charged: false,
            behind: None,
            saved: self.saved.again(),
            part: self.part,
            inherits: false,
        }
    }
}

impl Fate {
    /// Whether the messages will be handed over again.
    pub(crate) fn comes_back(self) -> bool {
        matches!(
            self,
            Self::Merged { .. } | Self::Resumed { .. } | Self::PutBack { .. }
        )
    }
}

/// Why a call ends that a newer message interrupts.
pub(crate) const INTERRUPTED: &str = "interrupted";
