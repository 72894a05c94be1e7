//! A message leaves its inbox and takes its place in its lane.

use std::collections::VecDeque;

use compact_str::CompactString;

use crate::admission::{Arrival, Shared};
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::group::{Activity, NEVER_PUSHED};
use crate::ids::{GroupId, LaneId, MessageId, SenderId};
use crate::inbox::ReadyInboxes;
use crate::lane::Lane;
use crate::message::Flag;
use crate::order::HeldUp;
use crate::settings::Lanes;
use crate::window::{ClosedBy, Newcomer, Window};
use crate::{Size, Time};

/// Inboxes that have mail.
type Listed<P> = ReadyInboxes<Arrival<P>, Shared>;

/// Arrivals of an instant at which a call has ended.
pub(crate) type Late<P> = VecDeque<(GroupId, Arrival<P>)>;

/// The sender that stands for all of a group under `lanes="group"`; no real name is empty.
pub(crate) const EVERYBODY: &str = "";

impl<P> Engine<P> {
    /// Takes in everything that was pushed.
    pub(crate) fn drain(&mut self, out: &mut Outbox<P>) {
        while let Some((group, arrival)) = self.late.pop_front() {
            self.arrive(group, arrival, out);
        }
        self.take_in_listed(self.intake.ready.take(), out);
        if self.observed {
            out.events.extend(self.intake.take_refusals());
        }
    }

    pub(crate) fn take_in_listed(&mut self, listed: Listed<P>, out: &mut Outbox<P>) {
        for inbox in listed {
            let group = self.group_of(&inbox);
            for arrival in inbox.drain() {
                self.arrive(group, arrival, out);
            }
        }
    }

    /// The same for the end of a call, but what has arrived only now is kept for the next time, and
    /// so is what was pushed to its group after it.
    pub(crate) fn drain_before_now(&mut self, out: &mut Outbox<P>) {
        let before = self
            .late
            .iter()
            .take_while(|(_, arrival)| arrival.at < self.now)
            .count();
        for _ in 0..before {
            let Some((group, arrival)) = self.late.pop_front() else {
                break;
            };
            self.arrive(group, arrival, out);
        }
        let all_late = !self.late.is_empty();
        for inbox in self.intake.ready.take() {
            let group = self.group_of(&inbox);
            let mut late = all_late;
            for arrival in inbox.drain() {
                late |= arrival.at >= self.now;
                if late {
                    self.late.push_back((group, arrival));
                } else {
                    self.arrive(group, arrival, out);
                }
            }
        }
    }

    pub(crate) fn arrive(&mut self, group: GroupId, arrival: Arrival<P>, out: &mut Outbox<P>) {
        let Arrival {
            payload,
            at,
            seq,
            sender: name,
            extra,
            flush,
            standalone,
        } = arrival;
        let room = &mut self.groups[group];
        // Producers race between the clock and the inbox; within a group time does not go back.
        let at = at.max(room.last_at).min(self.now);
        room.last_at = at;
        if room.first == NEVER_PUSHED {
            room.first = seq;
        }
        self.ledger.accepted += 1;
        self.ledger.waiting += 1;
        if self.observed {
            let (group, sender) = (room.name().clone(), name.clone());
            let id = extra.as_ref().and_then(|extra| extra.id.clone());
            out.events.push(Event::MessageAccepted {
                seq,
                group,
                sender,
                at,
                id,
            });
        }

        let sender = self.sender_of(group, name);
        let gaps = self.senders[sender].hear(at, self.settings.back_to_back, self.settings.burst);
        let id = self.messages.insert(payload, seq, at, sender, extra);
        let message = &mut self.messages[id];
        for (is, flag) in [
            (gaps.back_to_back, Flag::BackToBack),
            (gaps.burst, Flag::Burst),
            (flush, Flag::Flush),
            (standalone, Flag::Standalone),
        ] {
            if is {
                message.set(flag);
            }
        }
        let lane = self.lane_of(group, sender);
        self.place(lane, id, at, out);
        self.touch(lane);
    }

    /// Joins the lane's last window, or cuts it and opens the next (rule W2).
    fn place(&mut self, lane: LaneId, id: MessageId, at: Time, out: &mut Outbox<P>) {
        // What came due before this arrival is due for good, though nobody has looked since.
        self.close_if_overdue(lane, at, out);
        let Self {
            settings,
            messages,
            lanes,
            ..
        } = &mut *self;
        let extra = messages.extra(id);
        let newcomer = Newcomer {
            at,
            size: extra.map_or(Size::ONE, |extra| extra.size),
            batch_key: extra.and_then(|extra| extra.batch_key.as_deref()),
            quiet: extra.and_then(|extra| extra.quiet),
            standalone: messages[id].has(Flag::Standalone),
        };
        let alone = settings.lanes == Lanes::Message;
        let found = lanes[lane].found();
        let cut = match (lanes[lane].window(), lanes[lane].tail()) {
            (Some(_), Some(_)) if alone => Some(ClosedBy::Cut),
            (Some(window), Some(tail)) => {
                let (key, standalone) = (
                    messages.batch_key(tail),
                    messages[tail].has(Flag::Standalone),
                );
                window.cut_by(&newcomer, key, standalone, settings)
            }
            _ => None,
        };
        let opens = match lanes[lane].window_mut() {
            Some(window) if cut.is_none() => {
                window.join(&newcomer, found, settings);
                None
            }
            _ => Some(Window::open(&newcomer, found, settings)),
        };
        if let Some(by) = cut {
            self.close_window(lane, by, out);
        }
        self.lanes[lane].append(&mut self.messages, id, opens);
        if let Some(by) = self.due_at_once(lane, id) {
            self.close_window(lane, by, out);
        }
    }

    /// Why the last window of a lane waits for nothing, now that `id` is in it.
    fn due_at_once(&self, lane: LaneId, id: MessageId) -> Option<ClosedBy> {
        let message = &self.messages[id];
        if message.has(Flag::Flush) {
            Some(ClosedBy::Flush)
        } else if message.has(Flag::Standalone) || self.settings.lanes == Lanes::Message {
            Some(ClosedBy::Cut)
        } else if self.lanes[lane].window()?.is_full(&self.settings) {
            Some(ClosedBy::Size)
        } else {
            self.closing.then_some(ClosedBy::Drain)
        }
    }

    /// Makes a lane's last window due if its time came before `now`.
    fn close_if_overdue(&mut self, lane: LaneId, now: Time, out: &mut Outbox<P>) {
        if let Some(window) = self.lanes[lane].window() {
            let (at, by) = window.due_at(&self.settings);
            if at < now {
                self.close_window(lane, by, out);
            }
        }
    }

    pub(crate) fn close_window(&mut self, id: LaneId, by: ClosedBy, out: &mut Outbox<P>) {
        let lane = &mut self.lanes[id];
        let Some(messages) = lane.close_window(&mut self.messages, by) else {
            return;
        };
        if self.observed {
            let (group, sender) = (&self.groups[lane.group], &self.senders[lane.sender]);
            out.events.push(Event::WindowClosed {
                group: group.name().clone(),
                sender: sender.name.clone(),
                at: self.now,
                messages,
                closed_by: by,
            });
        }
    }

    /// Remembers to look at a lane before the next start.
    pub(crate) fn touch(&mut self, id: LaneId) {
        let lane = &mut self.lanes[id];
        if !lane.touched {
            lane.touched = true;
            self.touched.push(id);
        }
    }

    /// Timers of the lanes that have changed: what is due before `until` competes, what is not gets its
    /// deadline.
    pub(crate) fn look_at_lanes(&mut self, until: Time, out: &mut Outbox<P>) {
        if self.touched.is_empty() {
            return;
        }
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            // A lane that has gone meanwhile, or whose slot serves another that was looked at.
            let Some(lane) = self.lanes.get_mut(id).filter(|lane| lane.touched) else {
                continue;
            };
            lane.touched = false;
            let due = lane.window().map(|window| window.due_at(&self.settings));
            let (due_at, by) = due.unwrap_or((Time::NEVER, ClosedBy::Quiet));
            if due_at < until {
                self.close_window(id, by, out);
                self.window_timers.set(id, Time::NEVER);
            } else {
                self.window_timers.set(id, due_at);
            }
            self.review_lane(id, HeldUp::No);
        }
        self.touched = touched;
    }

    /// Lets a lane compete if it may and does not yet.
    fn review_lane(&mut self, id: LaneId, held_up: HeldUp) {
        let lane = &self.lanes[id];
        let free = lane.running == 0 || self.settings.lanes == Lanes::Message;
        if free && lane.head_is_due() && !lane.able {
            let group = lane.group;
            self.enable_lane(id, held_up);
            self.offer_group(group, held_up);
        }
    }

    /// The call of a lane has ended and something waits in it.
    pub(crate) fn end_lane_call(&mut self, id: LaneId, out: &mut Outbox<P>) {
        // Windows due before this instant are due; those due at it may still grow (rule T1).
        self.close_if_overdue(id, self.now, out);
        let lane = &mut self.lanes[id];
        let alone = lane.has_one_window();
        let due = lane
            .window_mut()
            .is_some_and(|window| window.call_ended(self.now, alone, &self.settings));
        if due {
            self.close_window(id, ClosedBy::Busy, out);
        }
        self.review_lane(id, HeldUp::ByItself);
        self.touch(id);
    }

    fn sender_of(&mut self, group: GroupId, name: CompactString) -> SenderId {
        let record = &self.groups[group];
        if let Some(last) = record.last_sender
            && self.senders[last].name == name
        {
            return last;
        }
        let id = self.meet(group, name);
        self.groups[group].last_sender = Some(id);
        id
    }

    /// A sender by name, remembered from now on.
    fn meet(&mut self, group: GroupId, name: CompactString) -> SenderId {
        self.senders.find(group, &name).unwrap_or_else(|| {
            let record = &mut self.groups[group];
            record.senders += 1;
            self.senders.insert(group, name, record.served.points())
        })
    }

    fn lane_of(&mut self, group: GroupId, sender: SenderId) -> LaneId {
        let sender = match self.settings.lanes {
            Lanes::Sender | Lanes::Message => sender,
            Lanes::Group => self.meet(group, CompactString::const_new(EVERYBODY)),
        };
        if let Some(lane) = self.senders[sender].lane {
            return lane;
        }
        let activity = match self.groups[group].activity {
            Some(activity) => activity,
            None => self.activities.insert(Activity::default()),
        };
        self.groups[group].activity = Some(activity);
        let id = self.lanes.insert(Lane::new(group, activity, sender));
        self.senders[sender].lane = Some(id);
        let next = self.activities[activity].lanes.replace(id);
        self.lanes[id].next = next;
        if let Some(next) = next {
            self.lanes[next].previous = Some(id);
        }
        id
    }

    /// Forgets a lane in which nothing waits or runs.
    pub(crate) fn drop_lane(&mut self, id: LaneId) {
        self.window_timers.set(id, Time::NEVER);
        let Lane {
            group,
            activity,
            sender,
            previous,
            next,
            ..
        } = self.lanes.remove(id);
        self.senders[sender].lane = None;
        match previous {
            Some(previous) => self.lanes[previous].next = next,
            None => self.activities[activity].lanes = next,
        }
        if let Some(next) = next {
            self.lanes[next].previous = previous;
        }
        if self.activities[activity].lanes.is_none() {
            self.activities.remove(activity);
            let group = &mut self.groups[group];
            group.activity = None;
            group.last_at = self.now;
        }
    }
}
