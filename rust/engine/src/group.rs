//! A conversation, and who of it may start.

use std::sync::Arc;

use compact_str::CompactString;

use crate::admission::GroupInbox;
use crate::context::Context;
use crate::deadlines::Later;
use crate::engine::Engine;
use crate::ids::{ActivityId, GroupId, LaneId, LeaseSlot, MessageId, SenderId};
use crate::lane::Lane;
use crate::order::{Claim, Contest, HeldUp, NowServed, Score, aged};
use crate::overflow::Oldest;
use crate::rate::Bucket;
use crate::settings::{Lanes, Profile};
use crate::size::Active;
use crate::slab::Slab;
use crate::strategy::{LastMinute, RecentCalls};
use crate::{Points, Seq, Settings, Strategy, Time};

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
    /// Its own virtual clock, for its senders: points, and what its divisions have left over.
    served: Points,
    remainder: u32,
    /// Senders remembered.
    pub(crate) senders: u32,
    /// There while something of it waits in a lane or runs.
    pub(crate) activity: Option<ActivityId>,
    /// Who spoke last: most messages follow one of the same sender.
    pub(crate) last_sender: Option<SenderId>,
    /// There in groups that are more than one sender under the queue's settings.
    pub(crate) room: Option<Box<Room>>,
}

/// What not every group needs.
#[derive(Default)]
pub(crate) struct Room {
    /// Settings of its own.
    pub(crate) profile: Option<Arc<Profile>>,
    /// Which band of them holds: 0 is below the first.
    pub(crate) band: u8,
    pub(crate) members: Option<u32>,
    pub(crate) active: Active,
    pub(crate) calls: Option<Box<RecentCalls>>,
    pub(crate) minute: Option<Box<LastMinute>>,
    pub(crate) bucket: Option<Box<Bucket>>,
    /// What is to happen in it at a given time, lanes' windows aside.
    pub(crate) later: Option<Box<Later>>,
    pub(crate) context: Option<Box<Context>>,
}

impl Room {
    /// Whether something was to happen in it before `at`.
    pub(crate) fn is_late(&self, at: Time) -> bool {
        self.later
            .as_ref()
            .is_some_and(|later| later.next_at() < at)
    }

    /// Whether nothing of it has to be remembered.
    pub(crate) fn is_over(&self, now: Time) -> bool {
        let nothing_later = self
            .later
            .as_ref()
            .is_none_or(|later| later.delayed + later.saved == 0 && later.typing.is_empty());
        let listened = self
            .context
            .as_ref()
            .is_some_and(|context| context.len() > 0);
        let full = self
            .bucket
            .as_ref()
            .is_none_or(|bucket| bucket.is_full(now));
        nothing_later && !listened && full
    }
}

/// The part of a group that waits in lanes or runs.
#[derive(Default)]
pub(crate) struct Activity {
    /// First of its lanes.
    pub(crate) lanes: Option<LaneId>,
    /// Messages that wait in them for their first start.
    pub(crate) waiting: u32,
    /// Running calls, the latest of them, and how many of them are about what nobody said.
    pub(crate) running: u32,
    pub(crate) calls: Option<LeaseSlot>,
    pub(crate) background: u32,
    /// Batches of it may be about to end calls for others.
    pub(crate) contended: bool,
    /// Senders with a lane that runs or is able.
    pub(crate) competitors: u32,
    /// Lanes that are able.
    pub(crate) able: u32,
    pub(crate) paused: bool,
    /// The able lane, as long as there has been but one: most groups never need the heap.
    only: Option<LaneId>,
    many: Option<Box<Contest<LaneId>>>,
    /// The lane whose claim the group has put forward, and that claim: with one it competes for a
    /// start.
    offered: Option<LaneId>,
    claim: Claim,
    /// Names its entry in the contest between groups.
    stamp: u32,
    /// What it weighs there while it runs or is able, in millionths; 0 otherwise.
    weight: u64,
    /// Its messages in push order, once a full group has had to drop some.
    pub(crate) oldest: Option<Box<Oldest>>,
}

/// What puts background messages behind whatever somebody said (rule B9): more than scores and standings
/// come to.
const BEHIND_ALL: Points = Points::from_millionths(i64::MAX / 2);

/// Later than every message.
pub(crate) const NEVER_PUSHED: Seq = Seq(u64::MAX);

impl<P> Group<P> {
    pub(crate) fn new(inbox: Arc<GroupInbox<P>>, now_served: Points) -> Self {
        Self {
            inbox,
            first: NEVER_PUSHED,
            last_at: Time::ZERO,
            standing: now_served,
            served: Points::ZERO,
            remainder: 0,
            senders: 0,
            activity: None,
            last_sender: None,
            room: None,
        }
    }

    pub(crate) fn name(&self) -> &CompactString {
        &self.inbox.group().name
    }

    /// What its senders have been served.
    pub(crate) fn now_served(&self) -> NowServed {
        NowServed {
            points: self.served,
            remainder: u64::from(self.remainder),
        }
    }

    pub(crate) fn set_now_served(&mut self, now_served: NowServed) {
        self.served = now_served.points;
        self.remainder = now_served.remainder as u32; // less than there are senders
    }

    /// What is to happen in it, if anything ever was.
    pub(crate) fn later(&self) -> Option<&Later> {
        self.room.as_ref()?.later.as_deref()
    }

    pub(crate) fn later_mut(&mut self) -> Option<&mut Later> {
        self.room.as_mut()?.later.as_deref_mut()
    }

    /// What has been listened to, if anything ever was.
    pub(crate) fn context(&self) -> Option<&Context> {
        self.room.as_ref()?.context.as_deref()
    }

    /// When it has a token, if it may not have one now.
    pub(crate) fn token_at(&self, now: Time) -> Option<Time> {
        let at = self.room.as_ref()?.bucket.as_ref()?.free_at();
        (at > now).then_some(at)
    }

    /// Whether somebody types in it.
    pub(crate) fn types(&self) -> bool {
        self.later().is_some_and(|later| !later.typing.is_empty())
    }

    /// The settings it goes by, in all their bands.
    pub(crate) fn profile<'a>(&'a self, queue: &'a Profile) -> &'a Profile {
        let own = self.room.as_ref().and_then(|room| room.profile.as_deref());
        own.unwrap_or(queue)
    }

    pub(crate) fn band(&self) -> u8 {
        self.room.as_ref().map_or(0, |room| room.band)
    }

    /// The settings it goes by now.
    pub(crate) fn settings<'a>(&'a self, queue: &'a Profile) -> &'a Arc<Settings> {
        match &self.room {
            None => &queue.settings,
            Some(room) => room
                .profile
                .as_deref()
                .unwrap_or(queue)
                .settings_in(room.band),
        }
    }

    /// Who goes first in it now.
    pub(crate) fn strategy(&self, queue: &Profile) -> Strategy {
        match &self.room {
            None => queue.strategy,
            Some(room) => room
                .profile
                .as_deref()
                .unwrap_or(queue)
                .strategy_in(room.band),
        }
    }
}

impl Activity {
    pub(crate) fn new(paused: bool) -> Self {
        Self {
            paused,
            ..Self::default()
        }
    }

    /// Whether the group competes for a start.
    pub(crate) fn is_able(&self) -> bool {
        self.offered.is_some()
    }

    /// What it weighs among the groups that run or are able.
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }
}

/// Entering and leaving the two contests.
impl<P> Engine<P> {
    /// What not every group needs, made if need be.
    pub(crate) fn room(&mut self, id: GroupId) -> &mut Room {
        let group = &mut self.groups[id];
        if group.room.is_none() {
            let own = self.overrides.find(&group.inbox.group().name);
            let mut room = Room {
                profile: own.and_then(|own| own.profile.clone()),
                members: own.and_then(|own| own.members),
                ..Room::default()
            };
            if let Some(sender) = group.last_sender {
                // Until now at most this one has spoken.
                let (span, last) = (
                    self.profile.settings.size_window,
                    self.senders[sender].last(),
                );
                if last != Time::NEVER {
                    room.active
                        .hear(sender, Time::NEVER, last, span, &self.senders);
                }
            }
            group.room = Some(Box::new(room));
        }
        group.room.get_or_insert_default()
    }

    /// A lane has its oldest window due and may start it.
    pub(crate) fn enable_lane(&mut self, id: LaneId, held_up: HeldUp) {
        let beside = self.beside(id);
        if !self.competes(id) {
            self.count_sender(id, true);
        }
        let lane = &mut self.lanes[id];
        lane.able = true;
        let (group, sender) = (lane.group, lane.sender);
        if !beside.is_some_and(|other| self.lanes[other].able) {
            let sender = &mut self.senders[sender];
            let served = self.groups[group].now_served();
            sender.standing = served.welcome(sender.standing, held_up);
        }
        self.score(id);
        self.enter_lane(id);
    }

    /// A lane has lost what it had due.
    pub(crate) fn disable_lane(&mut self, id: LaneId) {
        self.leave_lane(id);
        self.lanes[id].able = false;
        if !self.competes(id) {
            self.count_sender(id, false);
        }
    }

    /// Whether a lane runs or is able.
    pub(crate) fn competes(&self, id: LaneId) -> bool {
        self.lanes[id].able || self.lanes[id].running > 0
    }

    /// A lane that did not compete does now, or the other way round; so does its sender, unless another
    /// lane of theirs competes.
    pub(crate) fn count_sender(&mut self, id: LaneId, competes: bool) {
        let beside = self.beside(id);
        if beside.is_some_and(|other| self.competes(other)) {
            return;
        }
        let competitors = &mut self.activities[self.lanes[id].activity].competitors;
        if competes {
            *competitors += 1;
        } else {
            *competitors -= 1;
        }
    }

    /// The other lane of its sender.
    pub(crate) fn beside(&self, id: LaneId) -> Option<LaneId> {
        if self.background.is_empty() {
            return None; // spares most queues the hash
        }
        let lane = &self.lanes[id];
        self.lane_of_sender(lane.sender, !lane.background)
    }

    /// Scores the batch that a lane puts forward.
    pub(crate) fn score(&mut self, id: LaneId) {
        self.lanes[id].scored = self.scoring;
        if let Some(best) = self.lanes[id].best_score(&self.messages) {
            self.lanes[id].score = best;
            return;
        }
        if let Some((again, _)) = self.lanes[id].again() {
            self.lanes[id].score = self.held[again].score;
            return;
        }
        let lane = &self.lanes[id];
        let first = lane.head().expect("an able lane has something due");
        self.lanes[id].score = self.score_window(lane.group, first);
    }

    /// A message that is for itself competes with those of its sender.
    pub(crate) fn stand(&mut self, id: LaneId, message: MessageId) {
        let group = self.lanes[id].group;
        let score = self.score_of(group, message);
        // All of them have the same sender, so where that stands makes no difference.
        let claim = self.claim(group, Points::ZERO, score, message);
        self.lanes[id].stand(message, claim, score, &self.messages);
        self.rescore(id);
    }

    /// The score of the window that `first` opens.
    pub(crate) fn score_window(&self, group: GroupId, first: MessageId) -> Score {
        self.score_all(group, self.messages.window(first))
    }

    /// The score of a batch of these messages.
    pub(crate) fn score_all(
        &self,
        group: GroupId,
        mut all: impl Iterator<Item = MessageId>,
    ) -> Score {
        let settings = self.groups[group].settings(&self.profile);
        let first = all.next().map(|id| self.score_of(group, id));
        let mut score = first.unwrap_or_default();
        for id in all {
            score.join(&self.score_of(group, id), settings);
        }
        score
    }

    /// The batch that a lane puts forward has gained a message.
    pub(crate) fn join_score(&mut self, lane: LaneId, id: MessageId) {
        if self.lanes[lane].scored != self.scoring {
            // The batch is scored anew, all of it (rule C9).
            self.rescore(lane);
            return;
        }
        let group = self.lanes[lane].group;
        let other = self.score_of(group, id);
        let settings = self.groups[group].settings(&self.profile);
        self.lanes[lane].score.join(&other, settings);
        self.reenter_lane(lane);
        self.offer_group(group, HeldUp::No);
    }

    fn score_of(&self, group: GroupId, id: MessageId) -> Score {
        let group = &self.groups[group];
        let message = &self.messages[id];
        let sender = &self.senders[message.sender].name;
        let weight = self.overrides.weight(group.name(), sender);
        let settings = group.settings(&self.profile);
        Score::of(message, self.messages.rank(id), weight, settings)
    }

    /// What a lane puts forward in its group (rules O2, O7).
    fn claim_of(&self, id: LaneId) -> Claim {
        let lane = &self.lanes[id];
        let first = lane.offer().expect("an able lane has something due");
        let standing = self.senders[lane.sender].standing;
        self.claim(lane.group, standing, lane.score, first)
    }

    /// The same for any batch, by its first message and where its sender stands.
    pub(crate) fn claim(
        &self,
        group: GroupId,
        standing: Points,
        score: Score,
        first: MessageId,
    ) -> Claim {
        let unsaid = !self.background.is_empty() && self.messages.is_background(first);
        let (group, first) = (&self.groups[group], &self.messages[first]);
        let before = match group.strategy(&self.profile) {
            Strategy::Priority => aged(first.at, group.settings(&self.profile).aging),
            _ => standing,
        };
        let before = if unsaid {
            before.plus(BEHIND_ALL)
        } else {
            before
        };
        Claim {
            behind: before.minus(score.total()),
            at: first.at,
            since: first.seq(),
        }
    }

    /// A lane's claim has changed, or is new.
    pub(crate) fn enter_lane(&mut self, id: LaneId) {
        let stamp = self.new_stamp();
        let claim = self.claim_of(id);
        let lane = &mut self.lanes[id];
        lane.stamp = stamp;
        lane.claim = claim;
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

    /// What an able lane puts forward may have changed: its batch, its sender's standing, or how they
    /// are compared.
    pub(crate) fn reenter_lane(&mut self, id: LaneId) {
        if self.lanes[id].able && self.claim_of(id) != self.lanes[id].claim {
            self.leave_lane(id);
            self.enter_lane(id);
        }
    }

    /// The batch that a lane puts forward may have changed.
    pub(crate) fn rescore(&mut self, id: LaneId) {
        if self.lanes[id].able {
            self.score(id);
            self.reenter_lane(id);
            self.offer_group(self.lanes[id].group, HeldUp::No);
        }
    }

    /// The senders of a group are compared otherwise from now on.
    pub(crate) fn rekey(&mut self, id: GroupId) {
        let lanes: Vec<_> = self.lanes_of(id).collect();
        for lane in lanes {
            if self.lanes_are(lane, Lanes::Message) {
                for (message, score) in self.lanes[lane].take_candidates(&self.messages) {
                    let claim = self.claim(id, Points::ZERO, score, message);
                    self.lanes[lane].stand(message, claim, score, &self.messages);
                }
                if self.lanes[lane].able {
                    self.score(lane);
                }
            }
            self.reenter_lane(lane);
        }
    }

    /// A group's weight may have changed.
    pub(crate) fn reweigh(&mut self, id: GroupId) {
        let group = &self.groups[id];
        let weight = group.settings(&self.profile).weight.as_millionths();
        if let Some(activity) = group.activity
            && self.activities[activity].weight > 0
        {
            let before = std::mem::replace(&mut self.activities[activity].weight, weight);
            self.weights = self.weights - before + weight;
        }
    }

    /// A group that neither ran nor was able does now, or the other way round.
    pub(crate) fn count_group(&mut self, id: GroupId, key: ActivityId, competes: bool) {
        let activity = &mut self.activities[key];
        if competes {
            let weight = self.groups[id].settings(&self.profile).weight;
            activity.weight = weight.as_millionths();
            self.competitors += 1;
            self.weights += activity.weight;
        } else {
            self.competitors -= 1;
            self.weights -= std::mem::take(&mut activity.weight);
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

    /// Brings a group's place in the contest between groups up to date after something of it has
    /// changed: which lanes are able, what they put forward, its standing.
    pub(crate) fn offer_group(&mut self, id: GroupId, held_up: HeldUp) {
        let Some(key) = self.groups[id].activity else {
            return;
        };
        let best = self.best_offer(id, key);
        self.contend(id, key);
        let activity = &mut self.activities[key];
        let idle = activity.running == 0;
        let offered = std::mem::replace(&mut activity.offered, best);
        match (offered, best) {
            (None, Some(_)) => {
                let group = &mut self.groups[id];
                group.standing = self.served.welcome(group.standing, held_up);
                if idle {
                    self.count_group(id, key, true);
                }
            }
            (Some(_), None) if idle => self.count_group(id, key, false),
            _ => {}
        }
        if best.is_some()
            && (best != offered || self.group_claim(id, key) != self.activities[key].claim)
        {
            self.enter_group(id, key);
        }
    }

    /// The group has started its offer, which therefore no longer counts.
    pub(crate) fn offer_anew(&mut self, id: GroupId, key: ActivityId) {
        self.activities[key].offered = self.best_offer(id, key);
        self.contend(id, key);
        self.enter_group(id, key);
    }

    fn best_offer(&mut self, id: GroupId, key: ActivityId) -> Option<LaneId> {
        let group = &self.groups[id];
        let most = group.settings(&self.profile).max_concurrent_per_group;
        let activity = &self.activities[key];
        if activity.able == 0 || activity.paused || activity.running >= most {
            return None;
        }
        if let Some(at) = group.token_at(self.now) {
            self.token_timers.set(id, at);
            return None;
        }
        self.best_lane(key)
    }

    /// What a group puts forward among groups: age counts only inside it.
    fn group_claim(&self, id: GroupId, key: ActivityId) -> Claim {
        let group = &self.groups[id];
        let offered = self.activities[key]
            .offered
            .expect("an able group offers a lane");
        let lane = &self.lanes[offered];
        Claim {
            behind: group.standing.minus(lane.score.total()),
            at: lane.claim.at,
            since: group.first,
        }
    }

    /// Puts forward what the group offers, if anything.
    fn enter_group(&mut self, id: GroupId, key: ActivityId) {
        if self.activities[key].offered.is_none() {
            return;
        }
        let stamp = self.new_stamp();
        let claim = self.group_claim(id, key);
        let activity = &mut self.activities[key];
        (activity.stamp, activity.claim) = (stamp, claim);
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
