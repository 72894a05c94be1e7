//! A: who is let in, who waits for room, and the ids.

use chinwag_engine::{End, Overflow, Refusal};

use super::{Flaw, Message, Micros, Model, Wish, micros};

#[derive(Debug)]
pub(super) struct Id {
    pub(super) group: String,
    pub(super) name: String,
    accepted_at: Micros,
    /// In which order ids ended; none while the message is there.
    ended: Option<u64>,
}

/// Somebody who waits for room, or has a place reserved (rule A6).
#[derive(Debug)]
pub(super) struct Waiter {
    ticket: u64,
    group: String,
    admitted: bool,
}

/// What a push that is taken is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) seq: u64,
    pub(crate) evicted: bool,
    pub(crate) crowded: bool,
}

/// Why a push is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct No {
    /// Every reason that may be named, with its depth.
    pub(crate) reasons: Vec<(Refusal, u64)>,
    /// A drain may make room.
    pub(crate) stale: bool,
}

impl Model {
    /// A1-A5, A8. With a ticket its place is used, or given back.
    pub(crate) fn push(
        &mut self,
        now: Micros,
        label: u64,
        (group, sender): (&str, &str),
        wish: Wish,
        ticket: Option<u64>,
    ) -> Result<Verdict, No> {
        let has_place = self.line.iter().any(|it| Some(it.ticket) == ticket);
        let answer = self.decide(now, group, &wish, has_place);
        self.line.retain(|waiter| Some(waiter.ticket) != ticket);
        let verdict = answer.map(|(evicted, crowded)| Verdict {
            seq: self.accept(now, label, (group, sender), wish, evicted),
            evicted,
            crowded,
        });
        self.admit();
        verdict
    }

    /// Whether it is evicted at once, and whether the group is crowded.
    fn decide(
        &self,
        now: Micros,
        group: &str,
        wish: &Wish,
        has_place: bool,
    ) -> Result<(bool, bool), No> {
        let (here, in_all) = (self.taken(Some(group)), self.taken(None));
        let no = |reasons| No {
            reasons,
            stale: false,
        };
        if self.closed {
            return Err(no(vec![(Refusal::Closed, here)]));
        }
        if let Some(id) = &wish.id
            && self.is_duplicate(now, group, id)
        {
            return Err(no(vec![(Refusal::Duplicate, here)]));
        }
        if wish.bypass {
            let there = self.alive().filter(|message| message.wish.bypass).count();
            return if there < self.profile.settings.max_bypass as usize {
                Ok((false, false))
            } else {
                Err(no(vec![(Refusal::BypassFull, there as u64)]))
            };
        }
        if wish.context {
            return Ok((false, false));
        }

        let settings = self.settings_of(group);
        let overflow = settings.overflow;
        let most = settings.capacity_per_group.map_or(u64::MAX, u64::from);
        let forgets = self.flaw == Some(Flaw::ForgetsLine);
        let in_line = |it: &Waiter| it.group == group && !it.admitted;
        let mut full = Vec::new();
        if !has_place {
            if overflow == Overflow::Refuse && here >= most
                || self.line.iter().any(in_line) && !forgets
            {
                full.push((Refusal::GroupFull, here));
            }
            let most = self.profile.settings.capacity.map_or(u64::MAX, u64::from);
            if in_all >= most {
                full.push((Refusal::Full, in_all));
            }
        }
        if full.is_empty() {
            let evicted = overflow == Overflow::DropNewest && here >= most && !has_place;
            // Whoever had to wait found the inboxes drained.
            let twice = self.depth(Some(group)) >= most.saturating_mul(2);
            let crowded = overflow == Overflow::DropOldest && twice && !has_place;
            Ok((evicted, crowded))
        } else {
            Err(No {
                stale: overflow == Overflow::DropOldest && full[0].0 == Refusal::Full,
                reasons: full,
            })
        }
    }

    fn accept(
        &mut self,
        now: Micros,
        label: u64,
        (group, sender): (&str, &str),
        wish: Wish,
        evicted: bool,
    ) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.accepted += 1;
        if let Some(id) = wish.id.as_ref().filter(|_| !evicted) {
            self.ids
                .retain(|known| known.group != group || known.name != *id);
            self.ids.push(Id {
                group: group.into(),
                name: id.clone(),
                accepted_at: now,
                ended: None,
            });
        }
        let at = self.group(group);
        if !self.groups[at].pushed {
            // In the order in which they are first pushed to.
            let mut group = self.groups.remove(at);
            group.pushed = true;
            self.groups.push(group);
        }
        let message = Message {
            label,
            seq,
            group: group.into(),
            sender: sender.into(),
            arrived_at: now,
            back_to_back: false,
            burst: false,
            wish,
            expires_at: 0,
            evicted,
            found_idle: false,
            came_in_call: false,
            call_ended: None,
        };
        let mut before = self.inbox.iter().filter(|(it, _)| it.group == group);
        let latest = before.next_back().map_or(0, |(_, at)| *at);
        self.inbox.push((message, now.max(latest)));
        seq
    }

    /// A4: whoever was crowded drains the inboxes.
    pub(crate) fn make_room(&mut self, now: Micros) {
        self.drain(now);
    }

    /// A3: what counts for the capacity of a group, or in all.
    pub(crate) fn depth(&self, group: Option<&str>) -> u64 {
        let counts = |message: &&Message| {
            group.is_none_or(|group| message.group == group)
                && !(message.wish.context || message.wish.bypass || message.evicted)
        };
        let mut count = self.waiting_messages().filter(counts).count();
        if self.flaw == Some(Flaw::CountsWhatRuns) {
            let calls = self.calls.iter();
            count += calls.flat_map(|call| &call.messages).filter(counts).count();
        }
        count as u64
    }

    /// The same with the places that are kept for somebody.
    fn taken(&self, group: Option<&str>) -> u64 {
        self.depth(group) + self.places(group)
    }

    /// Kept for those who were told.
    pub(crate) fn places(&self, group: Option<&str>) -> u64 {
        let counts = |it: &&Waiter| it.admitted && group.is_none_or(|group| group == it.group);
        self.line.iter().filter(counts).count() as u64
    }

    /// A4: the oldest make room, while more waits than may.
    pub(super) fn evict_oldest(&mut self, place: usize, at: Micros) {
        loop {
            let group = &self.groups[place];
            let settings = group.settings();
            let most = settings
                .capacity_per_group
                .map_or(usize::MAX, |it| it as usize);
            let all = group.in_lanes().chain(&group.delayed);
            let mut seqs: Vec<_> = all.map(|message| message.seq).collect();
            if settings.overflow != Overflow::DropOldest || seqs.len() <= most {
                return;
            }
            seqs.sort_unstable();
            if self.flaw == Some(Flaw::DropsNewest) {
                seqs.reverse();
            }
            for message in self.remove(place, at, |message| message.seq == seqs[0]) {
                self.groups[place].name_evicted(&message);
                self.end(message, End::Evicted, "capacity");
            }
        }
    }
}

/// A6.
impl Model {
    /// Joins the line.
    pub(crate) fn queue_up(&mut self, now: Micros, group: &str) -> u64 {
        self.drain(now);
        self.group(group);
        self.next_ticket += 1;
        self.line.push(Waiter {
            ticket: self.next_ticket,
            group: group.into(),
            admitted: false,
        });
        self.admit();
        self.next_ticket
    }

    /// Leaves the line, or gives the place back.
    pub(crate) fn leave(&mut self, ticket: u64) {
        self.line.retain(|waiter| waiter.ticket != ticket);
        self.admit();
    }

    /// Who was given a place since this was asked last.
    pub(crate) fn take_admitted(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.admitted)
    }

    /// A4: what is pushed to it now would be evicted at once.
    fn drops_newest(&self, group: &str) -> bool {
        let settings = self.settings_of(group);
        let most = settings.capacity_per_group.map_or(u64::MAX, u64::from);
        settings.overflow == Overflow::DropNewest && self.taken(Some(group)) >= most
    }

    /// A place goes to the one that has waited longest of those whose group has room.
    pub(super) fn admit(&mut self) {
        let has_room = |model: &Self, waiter: &Waiter| {
            let settings = model.settings_of(&waiter.group);
            let most = match settings.overflow {
                Overflow::Refuse => settings.capacity_per_group,
                Overflow::DropNewest | Overflow::DropOldest => None,
            };
            let group = Some(waiter.group.as_str());
            let in_all = model.profile.settings.capacity.map_or(u64::MAX, u64::from);
            model.taken(group) < most.map_or(u64::MAX, u64::from) && model.taken(None) < in_all
        };
        if self.closed {
            // They are told, and refused.
            let (sent, kept) = self.line.drain(..).partition(|waiter| !waiter.admitted);
            self.line = kept;
            let sent: Vec<Waiter> = sent;
            self.admitted
                .extend(sent.iter().map(|waiter| waiter.ticket));
        }
        loop {
            let mut line = self.line.iter();
            let Some(next) = line.position(|waiter| !waiter.admitted && has_room(self, waiter))
            else {
                return;
            };
            self.admitted.push(self.line[next].ticket);
            if self.drops_newest(&self.line[next].group) {
                // What is evicted at once needs no place.
                self.line.remove(next);
            } else {
                self.line[next].admitted = true;
            }
        }
    }
}

/// A2.
impl Model {
    pub(super) fn end_id(&mut self, message: &Message, end: End) {
        let Some(id) = &message.wish.id else { return };
        let frees = matches!(
            end,
            End::Dead | End::Evicted | End::Expired | End::Abandoned
        );
        let is_it = |known: &Id| known.group == message.group && known.name == *id;
        if frees || self.settings_of(&message.group).dedup.is_zero() {
            self.ids.retain(|known| !is_it(known));
            return;
        }
        self.next_end += 1;
        for known in self.ids.iter_mut().filter(|known| is_it(known)) {
            known.ended = Some(self.next_end);
        }
        self.forget_ids(&message.group);
    }

    /// The filter of a group keeps so many ids, and lets go of the oldest.
    fn forget_ids(&mut self, group: &str) {
        let now = self.now;
        let ids = std::mem::take(&mut self.ids);
        self.ids = ids
            .into_iter()
            .filter(|id| self.is_remembered(now, id))
            .collect();
        let limit = self.settings_of(group).dedup_limit as usize;
        loop {
            let ended = || {
                self.ids
                    .iter()
                    .filter(|id| id.group == group && id.ended.is_some())
            };
            if ended().count() <= limit {
                return;
            }
            // Its age counts from its acceptance, and ids are listed in that order.
            let oldest = ended().next().unwrap().ended;
            self.ids
                .retain(|id| id.group != group || id.ended != oldest);
        }
    }

    fn is_duplicate(&self, now: Micros, group: &str, id: &str) -> bool {
        self.ids
            .iter()
            .any(|known| known.group == group && known.name == id && self.is_remembered(now, known))
    }

    /// T3: an id exactly as old as the limit is still known.
    pub(super) fn is_remembered(&self, now: Micros, id: &Id) -> bool {
        let age = now.saturating_sub(id.accepted_at);
        let dedup = micros(self.settings_of(&id.group).dedup);
        let young = if self.flaw == Some(Flaw::LimitsExclude) {
            age < dedup
        } else {
            age <= dedup
        };
        id.ended.is_none() || young
    }
}
