//! Those who wait for room, in line (rule A6).
//!
//! Within a group they are served first come, first served; a place that all groups share goes to
//! the one who has waited longest of those whose group has room. Who is served has a place kept for
//! them until they push or leave.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use compact_str::CompactString;

use crate::Time;
use crate::admission::{Accepted, Attempt, GroupInbox, Intake, Options, Refused, Taken};
use crate::engine::{Engine, Outbox};

/// A place in line, and then the right to a place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// As a number.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The reverse of [`Self::as_u64`].
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// Who waits, and who has been served and has yet to push.
pub(crate) struct Line<P> {
    next: u64,
    waiting: BTreeMap<Ticket, Arc<GroupInbox<P>>>,
    by_group: HashMap<CompactString, VecDeque<Ticket>>,
    /// The first of groups that may have room: they lack a place that all groups share, if any.
    hopeful: BTreeSet<Ticket>,
    served: HashMap<Ticket, Arc<GroupInbox<P>>>,
    told: Vec<Ticket>,
}

impl<P> Line<P> {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            waiting: BTreeMap::new(),
            by_group: HashMap::new(),
            hopeful: BTreeSet::new(),
            served: HashMap::new(),
            told: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether somebody waits for a place in a group, or has one there that they have yet to use.
    pub(crate) fn holds(&self, inbox: &Arc<GroupInbox<P>>) -> bool {
        self.by_group.contains_key(&inbox.group().name)
            || self.served.values().any(|other| Arc::ptr_eq(other, inbox))
    }

    fn join(&mut self, inbox: Arc<GroupInbox<P>>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let name = inbox.group().name.clone();
        self.by_group.entry(name).or_default().push_back(ticket);
        inbox.group().set_line(true);
        self.waiting.insert(ticket, inbox);
        ticket
    }

    /// Takes somebody out of the line.
    fn part(&mut self, ticket: Ticket) -> Option<Arc<GroupInbox<P>>> {
        let inbox = self.waiting.remove(&ticket)?;
        self.hopeful.remove(&ticket);
        if let Some(group) = self.by_group.get_mut(&inbox.group().name) {
            // Tickets ascend, and who leaves is mostly the first.
            if let Ok(place) = group.binary_search(&ticket) {
                group.remove(place);
            }
            if group.is_empty() {
                self.by_group.remove(&inbox.group().name);
                inbox.group().set_line(false);
            }
        }
        Some(inbox)
    }

    /// Nobody will be served any more: what they push from now on is refused.
    pub(crate) fn send_home(&mut self) {
        for inbox in self.waiting.values() {
            inbox.group().set_line(false);
        }
        self.by_group.clear();
        self.hopeful.clear();
        let all = std::mem::take(&mut self.waiting);
        self.told.extend(all.into_keys());
    }

    /// A group may have room: its first in line takes part.
    fn hope(&mut self, group: &str) {
        if let Some(&first) = self.by_group.get(group).and_then(|line| line.front()) {
            self.hopeful.insert(first);
        }
    }

    /// Serves those for whom there is room, who has waited longest first.
    fn serve_all(&mut self, intake: &Intake<P>) {
        while let Some(&first) = self.hopeful.first() {
            match self.serve(first, intake) {
                Taken::Full => return,
                Taken::GroupFull => {
                    self.hopeful.remove(&first);
                }
                Taken::Place | Taken::NoneNeeded => {}
            }
        }
    }

    fn serve(&mut self, ticket: Ticket, intake: &Intake<P>) -> Taken {
        let Some(inbox) = self.waiting.get(&ticket) else {
            return Taken::GroupFull;
        };
        let taken = intake.take_place(inbox.group());
        if matches!(taken, Taken::Place | Taken::NoneNeeded)
            && let Some(inbox) = self.part(ticket)
        {
            self.hope(&inbox.group().name.clone());
            if taken == Taken::Place {
                self.served.insert(ticket, inbox);
            }
            self.told.push(ticket);
        }
        taken
    }
}

impl<P> Engine<P> {
    /// Stands in line for a place in a group (rule A6). [`Self::take_admitted`] says who has one.
    pub fn queue_up(&mut self, now: Time, group: &str, out: &mut Outbox<P>) -> Ticket {
        self.catch_up_in(now, group, out);
        let id = self.open_group(group, out); // so that it can be forgotten again
        let ticket = self.line.join(self.groups[id].inbox.clone());
        if self.closing {
            self.line.send_home();
        } else {
            self.serve_line(group); // a place may have just been found
        }
        ticket
    }

    /// Pushes into the place that was kept. A refusal gives it to the next in line.
    pub fn push_with(
        &mut self,
        now: Time,
        ticket: Ticket,
        group: &str,
        sender: &str,
        payload: P,
        options: Options,
    ) -> Result<Accepted, Refused<P>> {
        let mut place = self.line.served.remove(&ticket);
        if options.context || options.bypass {
            // It needs none.
            if let Some(inbox) = place.take() {
                self.give_back_place(&inbox);
            }
        }
        let attempt = place.as_ref().map_or(Attempt::Last, |_| Attempt::Served);
        let how = (attempt, self.finds(group, sender, &options));
        let pushed = self
            .intake
            .push_to(how, now, group, sender, payload, options);
        if let (Some(inbox), Err(_)) = (place, &pushed) {
            self.give_back_place(&inbox);
        }
        pushed
    }

    /// Leaves the line, or gives the place that was kept to the next in line.
    pub fn leave_line(&mut self, ticket: Ticket) {
        if let Some(inbox) = self.line.part(ticket) {
            self.serve_line(&inbox.group().name);
        } else if let Some(inbox) = self.line.served.remove(&ticket) {
            self.give_back_place(&inbox);
        }
    }

    /// Who has been given a place since this was last asked, or sent home since the queue was closed.
    pub fn take_admitted(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.line.told)
    }

    /// Messages of a group wait no longer: their places are free.
    pub(crate) fn release(&mut self, group: crate::ids::GroupId, messages: u32) {
        let inbox = self.groups[group].inbox.group();
        self.intake.release(inbox, messages);
        if !self.line.is_empty() {
            self.line.hope(&inbox.name);
            self.line.serve_all(&self.intake);
        }
    }

    /// There may be room in a group.
    pub(crate) fn serve_line(&mut self, group: &str) {
        self.line.hope(group);
        self.line.serve_all(&self.intake);
    }

    fn give_back_place(&mut self, inbox: &Arc<GroupInbox<P>>) {
        self.intake.give_back(inbox.group());
        self.serve_line(&inbox.group().name);
    }
}
