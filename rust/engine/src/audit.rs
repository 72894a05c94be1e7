//! The engine looks at itself: P1's sums always, everything else when a test asks.

use std::collections::{HashMap, HashSet};

use crate::Time;
use crate::engine::{Engine, Outbox};
use crate::ids::{ActivityId, GroupId, HeldId, LaneId, MessageId};
use crate::ledger::{Imbalance, Ledger};
use crate::message::Flag;
use crate::settings::Lanes;
use crate::slab::Key as _;

impl<P> Engine<P> {
    /// The sums of P1, at the price of an addition.
    pub fn check(&mut self, now: Time, out: &mut Outbox<P>) -> Result<Ledger, Imbalance> {
        self.catch_up_before(now, out);
        let there = self.messages.len() as u64;
        let ledger = self.ledger.balanced()?;
        ensure(
            there == ledger.waiting + ledger.running + ledger.retrying,
            || format!("{there} messages are there, the ledger says {ledger:?}"),
        )?;
        // A push reserves its place before its message is in the inbox, never after.
        let counted = ledger.waiting - self.beside;
        ensure(self.intake.depth() >= counted, || {
            format!("capacity counts {} of {counted}", self.intake.depth())
        })?;
        Ok(ledger)
    }

    /// The same, and walks every structure: lists, counters, windows, competitors, caps.
    pub fn audit(&mut self, now: Time, out: &mut Outbox<P>) -> Result<Ledger, Imbalance> {
        let ledger = self.check(now, out)?;
        let (mut waiting, mut running, mut competitors, mut weights) =
            (self.bypass.len() as u64, 0, 0, 0);
        let mut beside = self.bypass.len() as u64;
        let mut retrying = 0;
        for (id, group) in self.groups.iter() {
            let name = group.name();
            ensure(group.inbox.group().group_id() == Some(id), || {
                format!("{name}: lost its number")
            })?;
            let context = u64::from(self.context_len(id));
            let limit = u64::from(group.settings(&self.profile).context_limit);
            ensure(context <= limit, || {
                format!("{name}: a context of {context}")
            })?;
            let delayed = self.delayed_in(id).len() as u64;
            let counted = group.later().map_or(0, |later| u64::from(later.delayed));
            ensure(delayed == counted, || {
                format!("{name}: {delayed} delayed, kept {counted}")
            })?;
            let listened = self.lanes_of(id).flat_map(|lane| {
                let waiting = self.messages.chain(self.lanes[lane].head());
                waiting.filter(|&id| self.messages[id].has(Flag::Listened))
            });
            let context = context + listened.count() as u64;
            beside += context;
            let mut in_group = delayed;
            if let Some(key) = group.activity {
                let (lanes, calls) = self.audit_activity(id, key)?;
                let activity = &self.activities[key];
                in_group += lanes;
                running += calls;
                let competes = activity.is_able() || calls > 0;
                competitors += u32::from(competes);
                weights += activity.weight();
                let weight = group.settings(&self.profile).weight.as_millionths();
                let weight = if competes { weight } else { 0 };
                ensure(activity.weight() == weight, || {
                    format!("{name}: weighs {}, not {weight}", activity.weight())
                })?;
            }
            ensure(in_group <= u64::from(group.inbox.group().waiting()), || {
                format!(
                    "{name}: {in_group} wait, capacity counts {}",
                    group.inbox.group().waiting()
                )
            })?;
            waiting += in_group + context;
            for held in self.held_in(id) {
                let found = self.messages.chain(Some(held.first)).count();
                ensure(found == held.messages as usize, || {
                    format!("{name}: a held batch of {} has {found}", held.messages)
                })?;
                retrying += u64::from(held.messages + held.context_len);
            }
            for lane in self.lanes_of(id) {
                let lane = &self.lanes[lane];
                let waiting = self.messages.chain(lane.head());
                let again = waiting.filter(|&id| self.messages[id].has(Flag::Started));
                let listened = self.messages.chain(lane.context.map(|(first, _)| first));
                retrying += again.count() as u64 + listened.count() as u64;
            }
        }
        ensure(retrying == ledger.retrying, || {
            format!("{retrying} retry, the ledger says {}", ledger.retrying)
        })?;
        ensure(waiting == ledger.waiting, || {
            format!("{waiting} wait, the ledger says {}", ledger.waiting)
        })?;
        ensure(beside == self.beside, || {
            format!("{beside} beside the lanes, kept {}", self.beside)
        })?;
        let found = (running, competitors, weights);
        let kept = (self.running, self.competitors, self.weights);
        ensure(found == kept, || {
            format!("running, competitors, weights {found:?}, kept {kept:?}")
        })?;
        let most = self.profile.settings.max_concurrent;
        ensure(most.is_none_or(|most| running <= most), || {
            format!("{running} calls")
        })?;
        self.audit_leases(&ledger)?;
        self.audit_senders()?;
        Ok(ledger)
    }

    /// Returns what waits in its lanes and how many calls run.
    fn audit_activity(&self, id: GroupId, key: ActivityId) -> Result<(u64, u32), Imbalance> {
        let (group, activity) = (&self.groups[id], &self.activities[key]);
        let name = group.name();
        let (mut waiting, mut running, mut able) = (0, 0, 0);
        let mut senders = HashSet::new();
        for lane in self.lanes_of(id) {
            waiting += self.audit_lane(lane)?;
            let record = &self.lanes[lane];
            running += record.running;
            able += u32::from(record.able);
            if self.competes(lane) {
                senders.insert(record.sender);
            }
        }
        let calls: Vec<_> = self.calls_of(id).collect();
        let unsaid = calls.iter().filter_map(|&slot| self.leases[slot].lane);
        let unsaid = unsaid.filter(|&lane| self.lanes[lane].background).count();
        ensure(
            calls.len() == running as usize && unsaid == activity.background as usize,
            || {
                format!(
                    "{name}: {} calls listed, {unsaid} of background",
                    calls.len()
                )
            },
        )?;
        let found = (running, able, senders.len() as u32, waiting);
        let kept = (
            activity.running,
            activity.able,
            activity.competitors,
            u64::from(activity.waiting),
        );
        ensure(found == kept, || {
            format!("{name}: running, able, competitors, waiting {found:?}, kept {kept:?}")
        })?;
        ensure(activity.paused == self.pauses.contains_key(&id), || {
            format!("{name}: paused is {}", activity.paused)
        })?;
        let cap = group.settings(&self.profile).max_concurrent_per_group;
        let may = able > 0 && !activity.paused && running < cap;
        let bucket = group.room.as_ref().and_then(|room| room.bucket.as_ref());
        let token = bucket.is_none_or(|bucket| bucket.free_at() < self.now);
        let right = if token {
            activity.is_able() == may
        } else {
            may || !activity.is_able()
        };
        ensure(right, || {
            format!("{name}: able is {} but may is {may}", activity.is_able())
        })?;
        Ok((waiting, running))
    }

    fn audit_lane(&self, id: LaneId) -> Result<u64, Imbalance> {
        let lane = &self.lanes[id];
        let name = || {
            format!(
                "{}/{}",
                self.groups[lane.group].name(),
                self.senders[lane.sender].name
            )
        };
        let known = if lane.fallback {
            self.fallbacks.get(&lane.group).and_then(|it| it.lane)
        } else {
            self.lane_of_sender(lane.sender, lane.background)
        };
        ensure(known == Some(id), || {
            format!("{}: not its sender's lane", name())
        })?;
        ensure(!lane.is_over(), || format!("{}: an empty lane", name()))?;
        let chain: Vec<MessageId> = self.messages.chain(lane.head()).collect();
        ensure(chain.len() == lane.waiting as usize, || {
            format!("{}: {} wait", name(), chain.len())
        })?;
        ensure(chain.last().copied() == lane.tail(), || {
            format!("{}: wrong tail", name())
        })?;
        let sorted = lane.fallback || chain.is_sorted_by_key(|&id| self.messages[id].at);
        ensure(sorted, || format!("{}: out of order", name()))?;
        ensure(
            chain
                .first()
                .is_none_or(|&id| self.messages[id].has(Flag::Opens)),
            || format!("{}: the oldest message opens no window", name()),
        )?;
        ensure(chain.is_empty() == lane.window().is_none(), || {
            format!("{}: window without messages", name())
        })?;
        let settings = self.groups[lane.group].settings(&self.profile);
        let many = settings.lanes == Lanes::Message && !lane.fallback;
        ensure(many || lane.running <= 1, || {
            format!("{}: {} calls at once", name(), lane.running)
        })?;
        let again = |&(key, _): &(HeldId, MessageId)| self.held[key].due;
        let may = match lane.again() {
            _ if lane.background && settings.hold_background => false,
            _ if lane.fallback && !self.may_fall_back(id) => false,
            _ if many => lane.head_is_due() || lane.held.iter().any(again),
            _ if lane.running > 0 => false,
            Some(front) => again(&front),
            None => lane.head_is_due(),
        };
        let interrupter = lane.interrupter;
        ensure(
            interrupter.is_none_or(|id| self.messages.chain(lane.head()).any(|it| it == id)),
            || format!("{}: an interrupter that does not wait", name()),
        )?;
        let front = lane.again().filter(|_| !many && lane.running == 0);
        let front = front.map(|(key, _)| &self.held[key]);
        let right = match front {
            Some(front) if front.due => !lane.backs_off,
            Some(front) => lane.backs_off || front.until <= self.now,
            None => !lane.backs_off || many,
        };
        ensure(right || lane.running > 0, || {
            format!("{}: backs off is {}", name(), lane.backs_off)
        })?;
        ensure(lane.able == may, || {
            format!("{}: able is {} but may is {may}", name(), lane.able)
        })?;
        let held = lane.held.iter().any(|&(key, _)| !self.held[key].due);
        if let Some(window) = lane.window().filter(|_| !held) {
            let due_at = window.due_at(settings).0;
            ensure(due_at >= self.now, || {
                format!("{}: a window is overdue", name())
            })?;
            ensure(
                self.window_timers.has(id) == (due_at != Time::NEVER),
                || format!("{}: no timer", name()),
            )?;
        }
        let fresh = chain.iter().filter(|&&id| self.counts(id));
        Ok(fresh.count() as u64)
    }

    fn audit_leases(&self, ledger: &Ledger) -> Result<(), Imbalance> {
        let (mut messages, mut beside) = (0, 0);
        for (_, lease) in self.leases.iter() {
            let found = self.messages.chain(Some(lease.first)).count();
            ensure(found == lease.messages as usize, || {
                format!("a call of {} has {found}", lease.messages)
            })?;
            for first in lease.firsts() {
                messages += self.messages.chain(Some(first)).count() as u64;
            }
            beside += u32::from(lease.lane.is_none());
        }
        ensure(messages == ledger.running, || {
            format!("{messages} run, the ledger says {}", ledger.running)
        })?;
        ensure(
            self.leases.len() as u32 == self.running + self.bypass_calls,
            || "leases are not the running calls".into(),
        )?;
        ensure(beside == self.bypass_calls, || {
            format!(
                "{beside} calls beside the lanes, kept {}",
                self.bypass_calls
            )
        })
    }

    fn audit_senders(&self) -> Result<(), Imbalance> {
        let mut by_group: HashMap<usize, u32> = HashMap::new();
        let mut messages: HashMap<usize, u32> = HashMap::new();
        for id in self.messages.ids() {
            let sender = self.messages[id].sender;
            *messages.entry(sender.index()).or_default() += 1;
        }
        for (id, sender) in self.senders.iter() {
            *by_group.entry(sender.group.index()).or_default() += 1;
            let found = messages.remove(&id.index()).unwrap_or(0);
            ensure(found == sender.messages, || {
                format!(
                    "{}: {found} messages, kept {}",
                    sender.name, sender.messages
                )
            })?;
        }
        ensure(messages.is_empty(), || "messages without a sender".into())?;
        for (id, group) in self.groups.iter() {
            let found = by_group.remove(&id.index()).unwrap_or(0);
            ensure(found == group.senders, || {
                format!("{}: {found} senders", group.name())
            })?;
        }
        ensure(by_group.is_empty(), || "senders without a group".into())
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Imbalance> {
    if holds {
        Ok(())
    } else {
        Err(Imbalance::new(what()))
    }
}
