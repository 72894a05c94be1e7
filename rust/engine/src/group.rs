//! A conversation, and who of it may start.

use std::sync::Arc;

use compact_str::CompactString;

use crate::admission::GroupInbox;
use crate::engine::Engine;
use crate::lane::LaneId;
use crate::order::{Claim, Contest, HeldUp, NowServed, Points};
use crate::sender::SenderId;
use crate::slab::{Slab, keys};
use crate::{Seq, Time};

keys! {
    /// A group.
    GroupId,
    /// What goes on in a group.
    ActivityId,
}

/// What is remembered of a group, also while it is idle: that is most groups, most of the time.
#[repr(align(64))] // a cache line, and not parts of two: with a million groups each is a miss
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
    /// Who spoke last: most messages follow one of the same sender.
    pub(crate) last_sender: Option<SenderId>,
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
    /// The lane whose claim the group has put forward: with one it competes for a start.
    offered: Option<LaneId>,
    /// Names its entry in the contest between groups.
    stamp: u32,
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
            last_sender: None,
            paused: false,
        }
    }

    pub(crate) fn name(&self) -> &CompactString {
        &self.inbox.group().name
    }
}

impl Activity {
    /// Whether the group competes for a start.
    pub(crate) fn is_able(&self) -> bool {
        self.offered.is_some()
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
        let stamp = self.new_stamp();
        let lane = &mut self.lanes[id];
        lane.stamp = stamp;
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
        let stamp = self.new_stamp();
        let lane = &mut self.lanes[id];
        lane.stamp = stamp;
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

    /// A number that no entry bears: lanes and groups come and go, and so do their slots.
    fn new_stamp(&mut self) -> u32 {
        self.stamp = self.stamp.wrapping_add(1);
        self.stamp
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
        let Some(key) = self.groups[id].activity else {
            return;
        };
        let best = if self.may_compete(id) {
            self.best_lane(id)
        } else {
            None
        };
        let activity = &mut self.activities[key];
        let running = activity.running > 0;
        let offered = std::mem::replace(&mut activity.offered, best);
        if best == offered {
            return;
        }
        let Some(best) = best else {
            self.competitors -= u32::from(!running);
            return;
        };
        let head = self.lanes[best]
            .head()
            .expect("an able lane has something due");
        let stamp = self.new_stamp();
        self.activities[key].stamp = stamp;
        let group = &mut self.groups[id];
        if offered.is_none() {
            group.standing = self.served.welcome(group.standing, held_up);
            self.competitors += u32::from(!running);
        }
        let claim = Claim {
            behind: group.standing,
            at: self.messages[head].at,
            since: group.first,
        };
        self.contest.enter(claim, id, stamp);
        let Self {
            groups,
            activities,
            contest,
            ..
        } = self;
        contest.tidy(self.competitors as usize, |id, stamp| {
            is_current(groups, activities, id, stamp)
        });
    }

    /// The group has started its offer, which therefore no longer counts.
    pub(crate) fn offer_anew(&mut self, id: GroupId) {
        let Some(key) = self.groups[id].activity else {
            return;
        };
        let best = if self.may_compete(id) {
            self.best_lane(id)
        } else {
            None
        };
        self.activities[key].offered = best;
        let Some(best) = best else { return };
        let head = self.lanes[best]
            .head()
            .expect("an able lane has something due");
        let stamp = self.new_stamp();
        self.activities[key].stamp = stamp;
        let group = &self.groups[id];
        let claim = Claim {
            behind: group.standing,
            at: self.messages[head].at,
            since: group.first,
        };
        self.contest.enter(claim, id, stamp);
    }

    /// The group that goes first.
    pub(crate) fn best_group(&mut self) -> Option<GroupId> {
        let Self {
            groups,
            activities,
            contest,
            ..
        } = self;
        contest.best(|id, stamp| is_current(groups, activities, id, stamp))
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

fn is_current<P>(
    groups: &Slab<GroupId, Group<P>>,
    activities: &Slab<ActivityId, Activity>,
    id: GroupId,
    stamp: u32,
) -> bool {
    let activity = groups
        .get(id)
        .and_then(|group| group.activity)
        .map(|key| &activities[key]);
    activity.is_some_and(|activity| activity.is_able() && activity.stamp == stamp)
}
