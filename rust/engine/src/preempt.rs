//! A waiting batch ends a call of another lane in its full group: by its lead in points (rule B8), or
//! because nobody said what runs (rule B9).

use crate::engine::{Engine, Outbox};
use crate::ids::{ActivityId, GroupId, LaneId, LeaseSlot, MessageId};
use crate::lease::{Ending, Fate, Heir};
use crate::order::Score;
use crate::settings::{Interrupted, Lanes};
use crate::{Points, Time};

/// A batch that could start but for a slot.
struct Waiting {
    lane: LaneId,
    message: Option<MessageId>,
    score: Score,
    since: Time,
}

impl<P> Engine<P> {
    /// Whether batches of a group may end calls of other lanes.
    pub(crate) fn may_preempt(&self, id: GroupId, key: ActivityId) -> bool {
        self.activities[key].background > 0
            || self.groups[id]
                .settings(&self.profile)
                .preempt_margin
                .is_some()
    }

    /// A full group may have something that is to start at the cost of what runs: it is looked at
    /// before the next start.
    pub(crate) fn contend(&mut self, id: GroupId, key: ActivityId) {
        let most = self.groups[id]
            .settings(&self.profile)
            .max_concurrent_per_group;
        let activity = &self.activities[key];
        let full = activity.able > 0 && activity.running >= most && !activity.paused;
        if full && !activity.contended && self.may_preempt(id, key) {
            self.activities[key].contended = true;
            self.contended.push(id);
        }
    }

    /// Ends calls for batches that go before them.
    pub(crate) fn settle_contests(&mut self, out: &mut Outbox<P>) {
        while let Some(id) = self.contended.pop() {
            let key = self.groups.get(id).and_then(|group| group.activity);
            let Some(key) = key else {
                continue;
            };
            if std::mem::take(&mut self.activities[key].contended) {
                self.preempt(id, key, out);
            }
        }
    }

    fn preempt(&mut self, id: GroupId, key: ActivityId, out: &mut Outbox<P>) {
        let settings = self.groups[id].settings(&self.profile);
        let activity = &self.activities[key];
        if activity.paused
            || self.paused.is_some()
            || activity.running < settings.max_concurrent_per_group
        {
            return;
        }
        if !self.lacks_a_slot_only(id) {
            return;
        }
        // A call that ends counts as the slot of one batch, of its own one if it has one.
        let ending = self
            .calls_of(id)
            .filter(|&slot| self.leases[slot].is_ending());
        let (promised, free): (Vec<_>, Vec<_>) = ending
            .map(|slot| {
                self.leases[slot]
                    .ending
                    .as_ref()
                    .and_then(|ending| ending.heir)
            })
            .partition(Option::is_some);
        let mut free = free.len();
        for waiting in self.rank_waiting(id) {
            let heir = Heir {
                lane: waiting.lane,
                message: waiting.message.map(|id| (id, self.messages[id].seq())),
            };
            if promised.contains(&Some(heir)) {
                continue;
            }
            if free > 0 {
                free -= 1;
                continue;
            }
            let Some(victim) = self.victim_of(id, &waiting) else {
                continue;
            };
            let interrupted = self.groups[id].settings(&self.profile).interrupted;
            let fate = match interrupted {
                Interrupted::Abandon => Fate::Abandoned,
                Interrupted::Merge | Interrupted::Resume => Fate::PutBack { as_new: false },
            };
            let ending = Ending {
                reason: "preempted",
                fate,
                heir: Some(heir),
            };
            let lease = self.leases[victim].id(victim);
            self.metrics.preemptions += 1;
            self.ask_to_end(lease, ending, out);
        }
    }

    /// What a group could start, in the order in which it would.
    fn rank_waiting(&self, id: GroupId) -> Vec<Waiting> {
        let alone = self.groups[id].settings(&self.profile).lanes == Lanes::Message;
        let mut ranked = Vec::new();
        for lane in self.lanes_of(id).filter(|&lane| self.lanes[lane].able) {
            let record = &self.lanes[lane];
            if alone {
                for (message, score) in record.ranked(&self.messages) {
                    let since = self.ready_since(lane, message);
                    let claim =
                        self.claim(id, self.senders[record.sender].standing, score, message);
                    let message = Some(message);
                    ranked.push((
                        claim,
                        Waiting {
                            lane,
                            message,
                            score,
                            since,
                        },
                    ));
                }
            } else if let Some(first) = record.offer() {
                let since = self.ready_since(lane, first);
                let (message, score) = (None, record.score);
                ranked.push((
                    record.claim,
                    Waiting {
                        lane,
                        message,
                        score,
                        since,
                    },
                ));
            }
        }
        ranked.sort_by_key(|(claim, _)| *claim);
        ranked.into_iter().map(|(_, waiting)| waiting).collect()
    }

    /// Since when a batch has been due; before everything when no call could be ended for it then.
    fn ready_since(&self, lane: LaneId, first: MessageId) -> Time {
        let held = self.lanes[lane].held.iter().find(|it| it.1 == first);
        if let Some(&(key, _)) = held {
            return self.held[key].until;
        }
        if self.lanes_are(lane, Lanes::Message) {
            return self.messages[first].at;
        }
        self.messages.due_since(first).unwrap_or(Time::ZERO)
    }

    /// The call that a batch ends: the lowest of those it may, the newest among equals.
    fn victim_of(&self, id: GroupId, waiting: &Waiting) -> Option<LeaseSlot> {
        let margin = self.groups[id].settings(&self.profile).preempt_margin;
        let spoken = !self.lanes[waiting.lane].background;
        let alone = waiting.message.is_some();
        let candidates = self.calls_of(id).filter(|&slot| {
            let lease = &self.leases[slot];
            let Some(lane) = lease.lane else {
                return false;
            };
            let unsaid = self.lanes[lane].background;
            let led = margin
                .is_some_and(|margin| waiting.score.total() >= lease.score.total().plus(margin));
            (alone || lane != waiting.lane)
                && !lease.is_ending()
                && !lease.committed
                && lease.shields == 0
                && lease.started < waiting.since
                && ((spoken && unsaid) || (led && spoken != unsaid))
                && self.may_put_off(slot)
        });
        candidates.min_by_key(|&slot| {
            let lease = &self.leases[slot];
            let said = lease.lane.is_some_and(|lane| !self.lanes[lane].background);
            let (newest, latest) = (
                std::cmp::Reverse(lease.started),
                std::cmp::Reverse(lease.generation()),
            );
            let score: Points = lease.score.total();
            (said, score, newest, latest)
        })
    }
}
