//! A call has ended: what becomes of its messages (section F).

use std::sync::Arc;

use crate::engine::{Engine, Outbox};
use crate::held::Held;
use crate::ids::{GroupId, LaneId, MessageId};
use crate::lease::{Lease, LeaseId, LeaseLost, Outcome};
use crate::ledger::End;
use crate::message::Flag;
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
        let Some(reason) = self.lease(id).map(|lease| lease.ending) else {
            return Err(LeaseLost);
        };
        // A call whose end is decided ends as decided (rule H1).
        let outcome = match (reason, outcome) {
            (None, outcome) => outcome,
            (Some(reason), outcome) => Outcome::decided(reason, outcome.into_error()),
        };
        self.finish(id, outcome, failures, out);
        Ok(())
    }

    /// A call is over, whatever its task still does.
    pub(crate) fn finish(
        &mut self,
        id: LeaseId,
        outcome: Outcome<P>,
        failures: Vec<Failure<P>>,
        out: &mut Outbox<P>,
    ) {
        let (ok, reason) = match &outcome {
            Outcome::Done => (true, "done"),
            Outcome::Failed { reason, .. } | Outcome::Abandoned { reason } => (false, *reason),
            Outcome::Snoozed(_) => (true, "snoozed"),
        };
        let Some(lease) = self.take_lease(id, ok, reason, out) else {
            return;
        };
        let group = lease.group;
        let Some(lane) = lease.lane else {
            let (end, reason) = match outcome {
                Outcome::Done | Outcome::Snoozed(_) => (End::Done, "done"),
                Outcome::Failed { reason, .. } => (End::Dead, reason),
                Outcome::Abandoned { reason } => (End::Abandoned, reason),
            };
            self.end_messages(group, Some(lease.first), end, reason, Some(id), out);
            self.end_bypass_call(group);
            return;
        };
        match outcome {
            Outcome::Done => self.complete(id, &lease, lane, failures, out),
            Outcome::Abandoned { reason } => {
                let firsts = [Some(lease.first), lease.context];
                for first in firsts {
                    self.end_messages(group, first, End::Abandoned, reason, Some(id), out);
                }
            }
            Outcome::Snoozed(span) => {
                let until = self.now.after(span);
                let held = lease.put_back(lease.attempt - 1, until);
                self.hold(lane, held, "snoozed", out);
            }
            Outcome::Failed {
                reason,
                retry,
                error,
            } => self.fail(id, &lease, lane, (reason, retry, error), out),
        }
        self.free_slot(group, lane, out);
    }

    /// It returned. Messages that it gave up on are tried again one by one, in push order.
    fn complete(
        &mut self,
        id: LeaseId,
        lease: &Lease,
        lane: LaneId,
        failures: Vec<Failure<P>>,
        out: &mut Outbox<P>,
    ) {
        let group = lease.group;
        let mut failed = Vec::new();
        let mut held = lease.put_back(lease.attempt, self.now);
        for Failure { seq, error } in failures {
            let message = self.messages.chain(Some(held.first));
            let found = message
                .filter(|_| held.messages > 0)
                .find(|&id| self.messages[id].seq() == seq);
            if let Some(message) = found {
                self.split_off(&mut held, |other, _| other == message);
                failed.push((seq, message, error.map(Arc::new)));
            }
        }
        if held.messages > 0 {
            self.end_messages(group, Some(held.first), End::Done, "done", Some(id), out);
        }
        self.end_context(lane, lease, End::Done, "done", id, out);
        failed.sort_by_key(|&(seq, ..)| seq);
        for (_, message, error) in failed.into_iter().rev() {
            let settings = self.groups[group].settings(&self.profile).clone();
            if lease.attempt >= settings.max_attempts || lease.part {
                self.end_failed(group, Some(message), "failed", error.as_ref(), out);
                continue;
            }
            let until = self.backoff(&settings, lease.attempt);
            let mut alone = lease.put_back(lease.attempt, until);
            alone.first = message;
            alone.messages = 1;
            (alone.context, alone.context_len) = (None, 0);
            alone.kind = self.messages[message].kind();
            alone.error = error;
            alone.failed = true;
            self.hold_in_time(group, lane, alone, "failed", out);
        }
    }

    /// It raised, or was too slow: its batch is tried again as it was, or in halves, or is dead.
    fn fail(
        &mut self,
        id: LeaseId,
        lease: &Lease,
        lane: LaneId,
        (reason, retry, error): (&'static str, bool, Option<P>),
        out: &mut Outbox<P>,
    ) {
        let group = lease.group;
        let settings = self.groups[group].settings(&self.profile).clone();
        let error = error.map(Arc::new);
        let committed = lease.committed && !settings.retry_committed;
        let again = retry && !committed;
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
            other.inherits = true;
            if let Some(right) = right {
                other.first = right;
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
        lease: &Lease,
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

impl Lease {
    /// Its batch, to be handed over again.
    fn put_back<P>(&self, attempts: u32, until: Time) -> Held<P> {
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
            part: self.part,
            inherits: false,
        }
    }
}
