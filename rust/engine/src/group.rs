//! A conversation, and who of it may start.

use std::sync::Arc;

use compact_str::CompactString;

use crate::admission::GroupInbox;
use crate::engine::Engine;
use crate::ids::{ActivityId, GroupId, LaneId, SenderId};
use crate::lane::Lane;
use crate::order::{Claim, Contest, HeldUp, NowServed, Points};
use crate::slab::Slab;
use crate::{Seq, Time};

/// What is remembered of a group, also while it is idle: that is most groups, most of the time.
#[repr(align(64))] // a cache line, and not parts of two: with a million groups each is a miss
pub(crate) struct Group<P> {
    pub(crate) inbox: Arc<GroupInbox<P>>,
    /// Its first message, by which equals among groups are ordered; [`NEVER_PUSHED`] before it.
    pub(crate) first: Seq,
    /// When something last came, ended or was resumed: no message of it arrives before that, and it
    /// is idle since then.
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
        let sender = &mut self.senders[lane.sender];
        sender.standing = self.groups[lane.group]
            .served
            .welcome(sender.standing, held_up);
        lane.able = true;
        self.activities[lane.activity].competitors += u32::from(lane.running == 0);
        self.enter_lane(id);
    }

    /// A lane's claim has changed, or is new.
    pub(crate) fn enter_lane(&mut self, id: LaneId) {
        let stamp = self.new_stamp();
        let lane = &mut self.lanes[id];
        let head = &self.messages[lane.head().expect("an able lane has something due")];
        let behind = self.senders[lane.sender].standing;
        lane.stamp = stamp;
        lane.claim = Claim {
            behind,
            at: head.at,
            since: head.seq(),
        };
        let activity = &mut self.activities[lane.activity];
        activity.able += 1;
        if activity.able == 1 {
            activity.only = Some(id);
            return;
        }
        let many = activity
            .many
            .get_or_insert_with(|| Box::new(Contest::new()));
        for id in activity.only.take().into_iter().chain([id]) {
            let lane = &self.lanes[id];
            many.enter(lane.claim, id, lane.stamp);
        }
    }

    /// A lane's entry no longer counts.
    pub(crate) fn leave_lane(&mut self, id: LaneId) {
        let stamp = self.new_stamp();
        let lane = &mut self.lanes[id];
        lane.stamp = stamp;
        let Activity {
            able, only, many, ..
        } = &mut self.activities[lane.activity];
        *able -= 1;
        only.take_if(|only| *only == id);
        match many {
            Some(many) if *able == 0 => many.clear(),
            Some(many) => many.tidy(*able as usize, |id, stamp| {
                is_entered(&self.lanes, id, stamp)
            }),
            None => {}
        }
    }

    /// The lane of a group that goes first.
    fn best_lane(&mut self, activity: ActivityId) -> Option<LaneId> {
        let Activity { only, many, .. } = &mut self.activities[activity];
        if only.is_some() {
            return *only;
        }
        many.as_mut()?
            .best(|id, stamp| is_entered(&self.lanes, id, stamp))
    }

    /// A number that no entry bears: lanes and groups come and go, and so do their slots.
    fn new_stamp(&mut self) -> u32 {
        self.stamp = self.stamp.wrapping_add(1);
        self.stamp
    }

    /// Brings a group's place in the contest between groups up to date after a lane of it has
    /// become able or unable.
    pub(crate) fn offer_group(&mut self, id: GroupId, held_up: HeldUp) {
        let Some(key) = self.groups[id].activity else {
            return;
        };
        let best = self.best_offer(id, key);
        let activity = &mut self.activities[key];
        let alone = u32::from(activity.running == 0);
        let offered = std::mem::replace(&mut activity.offered, best);
        match (offered, best) {
            (None, Some(_)) => {
                let group = &mut self.groups[id];
                group.standing = self.served.welcome(group.standing, held_up);
                self.competitors += alone;
            }
            (Some(_), None) => self.competitors -= alone,
            _ => {}
        }
        if best != offered {
            self.enter_group(id, key);
        }
    }

    /// The group has started its offer, which therefore no longer counts.
    pub(crate) fn offer_anew(&mut self, id: GroupId, key: ActivityId) {
        self.activities[key].offered = self.best_offer(id, key);
        self.enter_group(id, key);
    }

    fn best_offer(&mut self, id: GroupId, key: ActivityId) -> Option<LaneId> {
        let full = self.activities[key].running >= self.settings.max_concurrent_per_group;
        if full || self.groups[id].paused {
            None
        } else {
            self.best_lane(key)
        }
    }

    /// Puts forward what the group offers, if anything.
    fn enter_group(&mut self, id: GroupId, key: ActivityId) {
        let Some(offered) = self.activities[key].offered else {
            return;
        };
        let stamp = self.new_stamp();
        self.activities[key].stamp = stamp;
        let group = &self.groups[id];
        let at = self.lanes[offered].claim.at;
        self.contest.enter(
            Claim {
                behind: group.standing,
                at,
                since: group.first,
            },
            id,
            stamp,
        );
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

    /// The group that goes first, and its lane that does.
    pub(crate) fn best(&mut self) -> Option<(GroupId, ActivityId, LaneId)> {
        let Self {
            groups,
            activities,
            contest,
            ..
        } = self;
        let id = contest.best(|id, stamp| is_current(groups, activities, id, stamp))?;
        let activity = groups[id].activity.expect("an able group is active");
        let lane = activities[activity]
            .offered
            .expect("an able group offers a lane");
        Some((id, activity, lane))
    }
}

fn is_entered(lanes: &Slab<LaneId, Lane>, id: LaneId, stamp: u32) -> bool {
    lanes
        .get(id)
        .is_some_and(|lane| lane.able && lane.stamp == stamp)
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
