//! A conversation, and who of it may start.

use std::sync::Arc;

use compact_str::CompactString;

use crate::admission::GroupInbox;
use crate::engine::Engine;
use crate::lane::LaneId;
use crate::order::{Claim, Contest, HeldUp, NowServed, Points};
use crate::slab::keys;
use crate::{Seq, Time};

keys! {
    /// A group.
    GroupId,
    /// What goes on in a group.
    ActivityId,
}

/// What is remembered of a group, also while it is idle: that is most groups, most of the time.
pub(crate) struct Group<P> {
    pub(crate) inbox: Arc<GroupInbox<P>>,
    /// Its first message, by which equals among groups are ordered; [`NEVER_PUSHED`] before it.
    pub(crate) first: Seq,
    /// Arrival of its youngest message: none comes before it.
    pub(crate) last_at: Time,
    /// What it has been served.
    pub(crate) standing: Points,
    /// Its own virtual clock, for its senders.
    pub(crate) served: NowServed,
    /// Senders remembered.
    pub(crate) senders: u32,
    /// There while something of it waits or runs.
    pub(crate) activity: Option<ActivityId>,
    /// Names its entry in the contest between groups.
    stamp: u32,
    /// Competes for a start.
    able: bool,
    pub(crate) paused: bool,
}

/// The waiting and running part of a group.
#[derive(Default)]
pub(crate) struct Activity {
    /// First of its lanes.
    pub(crate) lanes: Option<LaneId>,
    /// Running calls.
    pub(crate) running: u32,
    /// Lanes that run or are able.
    pub(crate) competitors: u32,
    /// Lanes that are able.
    pub(crate) able: u32,
    /// The able lane, as long as there has been but one: most groups never need the heap.
    only: Option<LaneId>,
    many: Option<Box<Contest<LaneId>>>,
    /// The lane whose claim the group has put forward.
    offered: Option<LaneId>,
}

/// Later than every message.
pub(crate) const NEVER_PUSHED: Seq = Seq(u64::MAX);

impl<P> Group<P> {
    pub(crate) fn new(inbox: Arc<GroupInbox<P>>, now_served: Points) -> Self {
        Self {
            inbox,
            first: NEVER_PUSHED,
            last_at: Time::ZERO,
            standing: now_served,
            served: NowServed::default(),
            senders: 0,
            activity: None,
            stamp: 0,
            able: false,
            paused: false,
        }
    }

    pub(crate) fn name(&self) -> &CompactString {
        &self.inbox.group().name
    }

    pub(crate) fn is_able(&self) -> bool {
        self.able
    }
}

/// Entering and leaving the two contests.
impl<P> Engine<P> {
    /// A lane has its oldest window due and may start it.
    pub(crate) fn enable_lane(&mut self, id: LaneId, held_up: HeldUp) {
        let lane = &mut self.lanes[id];
        let group = &self.groups[lane.group];
        let sender = &mut self.senders[lane.sender];
        sender.standing = group.served.welcome(sender.standing, held_up);
        lane.able = true;
        let activity = &mut self.activities[group.activity.expect("a lane makes its group active")];
        if lane.running == 0 {
            activity.competitors += 1;
        }
        self.enter_lane(id);
    }

    /// A lane's claim has changed, or is new.
    pub(crate) fn enter_lane(&mut self, id: LaneId) {
        let claim = self.lane_claim(id);
        let lane = &mut self.lanes[id];
        lane.stamp = lane.stamp.wrapping_add(1);
        let stamp = lane.stamp;
        let activity = self.groups[lane.group]
            .activity
            .expect("a lane makes its group active");
        let activity = &mut self.activities[activity];
        activity.able += 1;
        if activity.able == 1 {
            activity.only = Some(id);
            return;
        }
        let only = activity.only.take();
        let other = only.map(|other| (self.lane_claim(other), other, self.lanes[other].stamp));
        let activity = self.groups[self.lanes[id].group]
            .activity
            .expect("as above");
        let many = self.activities[activity]
            .many
            .get_or_insert_with(|| Box::new(Contest::new()));
        if let Some((claim, other, stamp)) = other {
            many.enter(claim, other, stamp);
        }
        many.enter(claim, id, stamp);
    }

    /// A lane's entry no longer counts.
    pub(crate) fn leave_lane(&mut self, id: LaneId) {
        let lane = &mut self.lanes[id];
        lane.stamp = lane.stamp.wrapping_add(1);
        let activity = self.groups[lane.group]
            .activity
            .expect("a lane makes its group active");
        let Activity {
            able, only, many, ..
        } = &mut self.activities[activity];
        *able -= 1;
        if *only == Some(id) {
            *only = None;
        }
        if let Some(many) = many {
            if *able == 0 {
                many.clear();
            } else {
                let lanes = &self.lanes;
                many.tidy(*able as usize, |lane, stamp| {
                    lanes.get(lane).is_some_and(|l| l.able && l.stamp == stamp)
                });
            }
        }
    }

    /// The lane of a group that goes first.
    pub(crate) fn best_lane(&mut self, id: GroupId) -> Option<LaneId> {
        let Activity { only, many, .. } = &mut self.activities[self.groups[id].activity?];
        if only.is_some() {
            return *only;
        }
        let lanes = &self.lanes;
        many.as_mut()?
            .best(|lane, stamp| lanes.get(lane).is_some_and(|l| l.able && l.stamp == stamp))
    }

    fn lane_claim(&self, id: LaneId) -> Claim {
        let lane = &self.lanes[id];
        let head = &self.messages[lane.head().expect("an able lane has something due")];
        Claim {
            behind: self.senders[lane.sender].standing,
            at: head.at,
            since: head.seq(),
        }
    }

    /// Brings a group's place in the contest between groups up to date after a lane of it has
    /// become able or unable.
    pub(crate) fn offer_group(&mut self, id: GroupId, held_up: HeldUp) {
        let best = if self.may_compete(id) {
            self.best_lane(id)
        } else {
            None
        };
        let group = &mut self.groups[id];
        let activity = group
            .activity
            .map(|activity| &mut self.activities[activity]);
        let running = activity
            .as_ref()
            .is_some_and(|activity| activity.running > 0);
        let offered = activity.and_then(|activity| std::mem::replace(&mut activity.offered, best));
        let was_able = std::mem::replace(&mut group.able, best.is_some());
        let Some(best) = best else {
            if was_able && !running {
                self.competitors -= 1;
            }
            return;
        };
        if was_able && offered == Some(best) {
            return;
        }
        if !was_able {
            group.standing = self.served.welcome(group.standing, held_up);
            if !running {
                self.competitors += 1;
            }
        }
        group.stamp = group.stamp.wrapping_add(1);
        let head = self.lanes[best]
            .head()
            .expect("an able lane has something due");
        let claim = Claim {
            behind: group.standing,
            at: self.messages[head].at,
            since: group.first,
        };
        self.contest.enter(claim, id, group.stamp);
        let groups = &self.groups;
        self.contest
            .tidy(self.competitors as usize, |group, stamp| {
                is_current(groups.get(group), stamp)
            });
    }

    /// The group's claim has changed: whatever it has put forward no longer counts.
    pub(crate) fn withdraw_offer(&mut self, id: GroupId) {
        if let Some(activity) = self.groups[id].activity {
            self.activities[activity].offered = None;
        }
    }

    /// The group that goes first.
    pub(crate) fn best_group(&mut self) -> Option<GroupId> {
        let groups = &self.groups;
        self.contest
            .best(|group, stamp| is_current(groups.get(group), stamp))
    }

    fn may_compete(&self, id: GroupId) -> bool {
        let group = &self.groups[id];
        let cap = self.settings.max_concurrent_per_group;
        !group.paused
            && group
                .activity
                .is_some_and(|activity| self.activities[activity].running < cap)
    }
}

fn is_current<P>(group: Option<&Group<P>>, stamp: u32) -> bool {
    group.is_some_and(|group| group.able && group.stamp == stamp)
}
