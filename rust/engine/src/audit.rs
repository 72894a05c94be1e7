//! The engine looks at itself: P1's sums always, everything else when a test asks.

use std::collections::HashMap;

use crate::Time;
use crate::engine::{Engine, Outbox};
use crate::ids::{LaneId, MessageId};
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
        ensure(self.intake.depth() >= ledger.waiting, || {
            format!(
                "capacity counts {} of {} waiting",
                self.intake.depth(),
                ledger.waiting
            )
        })?;
        Ok(ledger)
    }

    /// The same, and walks every structure: lists, counters, windows, competitors, caps.
    pub fn audit(&mut self, now: Time, out: &mut Outbox<P>) -> Result<Ledger, Imbalance> {
        let ledger = self.check(now, out)?;
        let (mut waiting, mut running, mut competitors) = (0, 0, 0);
        for (id, group) in self.groups.iter() {
            let name = group.name();
            ensure(group.inbox.group().group_id() == Some(id), || {
                format!("{name}: lost its number")
            })?;
            let Some(activity) = group.activity.map(|activity| &self.activities[activity]) else {
                continue;
            };
            let (mut in_group, mut group_running, mut able, mut senders) = (0, 0, 0, 0);
            for lane in self.lanes_of(id) {
                let lane_waiting = self.audit_lane(lane)?;
                let lane = &self.lanes[lane];
                in_group += lane_waiting;
                group_running += lane.running;
                able += u32::from(lane.able);
                senders += u32::from(lane.able || lane.running > 0);
            }
            let found = (group_running, able, senders);
            let kept = (activity.running, activity.able, activity.competitors);
            ensure(found == kept, || {
                format!("{name}: running, able, competitors {found:?}, kept {kept:?}")
            })?;
            let cap = self.settings.max_concurrent_per_group;
            ensure(group_running <= cap, || {
                format!("{name}: {group_running} calls above {cap}")
            })?;
            let may = able > 0 && !group.paused && group_running < cap;
            ensure(activity.is_able() == may, || {
                format!("{name}: able is {} but may is {may}", activity.is_able())
            })?;
            ensure(in_group <= u64::from(group.inbox.group().waiting()), || {
                format!(
                    "{name}: {in_group} wait, capacity counts {}",
                    group.inbox.group().waiting()
                )
            })?;
            waiting += in_group;
            running += group_running;
            competitors += u32::from(may || group_running > 0);
        }
        ensure(waiting == ledger.waiting, || {
            format!(
                "{waiting} wait in lanes, the ledger says {}",
                ledger.waiting
            )
        })?;
        ensure(
            (running, competitors) == (self.running, self.competitors),
            || {
                format!(
                    "running, competitors {:?}, kept {:?}",
                    (running, competitors),
                    (self.running, self.competitors)
                )
            },
        )?;
        ensure(
            self.settings
                .max_concurrent
                .is_none_or(|cap| running <= cap),
            || format!("{running} calls"),
        )?;
        self.audit_leases(&ledger)?;
        self.audit_senders()?;
        Ok(ledger)
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
        ensure(self.senders[lane.sender].lane == Some(id), || {
            format!("{}: not its sender's lane", name())
        })?;
        ensure(lane.waiting + lane.running > 0, || {
            format!("{}: an empty lane", name())
        })?;
        let chain: Vec<MessageId> = self.messages.chain(lane.head()).collect();
        ensure(chain.len() == lane.waiting as usize, || {
            format!("{}: {} wait", name(), chain.len())
        })?;
        ensure(chain.last().copied() == lane.tail(), || {
            format!("{}: wrong tail", name())
        })?;
        ensure(chain.is_sorted_by_key(|&id| self.messages[id].at), || {
            format!("{}: out of order", name())
        })?;
        ensure(
            chain
                .first()
                .is_none_or(|&id| self.messages[id].has(Flag::Opens)),
            || format!("{}: the oldest message opens no window", name()),
        )?;
        ensure(chain.is_empty() == lane.window().is_none(), || {
            format!("{}: window without messages", name())
        })?;
        let many = self.settings.lanes == Lanes::Message;
        ensure(many || lane.running <= 1, || {
            format!("{}: {} calls at once", name(), lane.running)
        })?;
        let may = lane.head_is_due() && (many || lane.running == 0);
        ensure(lane.able == may, || {
            format!("{}: able is {} but may is {may}", name(), lane.able)
        })?;
        if let Some(window) = lane.window() {
            let due_at = window.due_at(&self.settings).0;
            ensure(due_at >= self.now, || {
                format!("{}: a window is overdue", name())
            })?;
            ensure(
                self.window_timers.has(id) == (due_at != Time::NEVER),
                || format!("{}: no timer", name()),
            )?;
        }
        Ok(u64::from(lane.waiting))
    }

    fn audit_leases(&self, ledger: &Ledger) -> Result<(), Imbalance> {
        let mut messages = 0;
        for (_, lease) in self.leases.iter() {
            let found = self.messages.chain(Some(lease.first)).count();
            ensure(found == lease.messages as usize, || {
                format!("a call of {} has {found}", lease.messages)
            })?;
            messages += found as u64;
        }
        ensure(messages == ledger.running, || {
            format!("{messages} run, the ledger says {}", ledger.running)
        })?;
        ensure(self.leases.len() == self.running as usize, || {
            "leases are not the running calls".into()
        })
    }

    fn audit_senders(&self) -> Result<(), Imbalance> {
        let mut by_group: HashMap<usize, u32> = HashMap::new();
        for (_, sender) in self.senders.iter() {
            *by_group.entry(sender.group.index()).or_default() += 1;
        }
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
