//! The way in: any thread asks, and is answered at once (rules A1-A5, A8).
//!
//! A push looks up its group, reserves a place in the capacities by atomics, and links itself into
//! the group's inbox. Only a message with an id of its own takes a lock, its group's, for the filter.
//! The scheduler's owner is never waited for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use compact_str::CompactString;

use crate::events::Event;
use crate::inbox::{Inbox, Ready};
use crate::limits::{Counted, Limits, Shared, Word, lock};
use crate::message::Extra;
use crate::names::{Names, Used};
use crate::settings::OnBusy;
use crate::{LeaseId, Points, Seq, Settings, Size, Time};

/// What a message asks for beyond its group, sender and payload.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // each is a wish of its own
pub struct Options {
    /// Its name in its group; [`Seq::automatic_id`] without one.
    pub id: Option<Box<str>>,
    /// The platform's time: shown, kept, used by `keep="latest"` alone.
    pub at: Option<Time>,
    /// What it takes up of a batch.
    pub size: Size,
    /// Only consecutive messages of one key share a batch.
    pub batch_key: Option<Box<str>>,
    /// A quiet period of its own.
    pub quiet: Option<Duration>,
    /// Points of its own.
    pub rank: Points,
    /// How long it may wait for its first start.
    pub ttl: Option<Duration>,
    /// It arrives only after that.
    pub delay: Option<Duration>,
    /// Makes what waits in its lane due at once, itself included.
    pub flush: bool,
    /// Shares its batch with nobody.
    pub standalone: bool,
    /// Gets the points of that name.
    pub real_time: bool,
    /// Waits in its group's context instead of a lane.
    pub context: bool,
    /// Starts at once beside everything.
    pub bypass: bool,
    /// Nobody said it: whatever somebody did say goes first.
    pub background: bool,
    /// What it does to the running call of its lane, if not what its group's messages do.
    pub on_busy: Option<OnBusy>,
    /// The call that pushes it, if one does.
    pub inside: Option<LeaseId>,
}

/// How a push takes a refusal for want of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It tries once more if the owner may find room (see [`Refused::stale`]).
    First,
    /// It has tried before.
    Last,
    /// It will stand in line, and has not been refused.
    Willing,
    /// It has stood in line, and a place is kept for it.
    Served,
}

/// What is known of the lane that a message comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finds {
    /// Only the owner could say.
    Unknown,
    Free,
    Busy,
    /// A call to which it could never do what it wants to.
    Nothing,
}

/// The verdict on a push that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its place in the push order.
    pub seq: Seq,
    /// The owner sleeps and this caller is the one that must see to a poll.
    pub wake: bool,
    /// Its group was full and dropped it at once.
    pub evicted: bool,
    /// Its group has twice as much as it may: see to [`crate::Engine::make_room`] before anything else.
    pub crowded: bool,
}

/// The verdict on a push that was not: it left no trace.
#[derive(Debug)]
pub struct Refused<P> {
    /// Handed back, and what was asked for.
    pub payload: P,
    /// See `payload`.
    pub options: Box<Options>,
    /// Why.
    pub reason: Refusal,
    /// Messages waiting in the group; in all for [`Refusal::Full`], bypassing for [`Refusal::BypassFull`].
    pub depth: u64,
    /// With [`Refusal::Busy`]: only [`crate::Engine::push`] can say. Otherwise
    /// [`crate::Engine::make_room`] may help: push once more after it, and that answer counts.
    pub stale: bool,
}

/// Why a push was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue has been closed.
    Closed,
    /// A message with this id is there, or was a moment ago.
    Duplicate,
    /// The group holds as much as it may.
    GroupFull,
    /// All groups together hold as much as they may.
    Full,
    /// As many messages bypass the others as may.
    BypassFull,
    /// Its lane is busy, and it said not to wait then.
    Busy,
    /// What it is to do to a running call could never be done in its group.
    Unserved,
}

impl Refusal {
    /// All of them, in the order of [`crate::Metrics::refused`].
    pub const ALL: [Self; 7] = [
        Self::Closed,
        Self::Duplicate,
        Self::GroupFull,
        Self::Full,
        Self::BypassFull,
        Self::Busy,
        Self::Unserved,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Duplicate => "duplicate",
            Self::GroupFull => "group_full",
            Self::Full => "full",
            Self::BypassFull => "bypass_full",
            Self::Busy => "busy",
            Self::Unserved => "unserved",
        }
    }
}

/// The half of the queue that producers see.
pub struct Intake<P> {
    names: Names<P>,
    pub(crate) ready: Ready<Arrival<P>, Shared>,
    closed: AtomicBool,
    /// As many as were accepted, but for those in `void`.
    next_seq: AtomicU64,
    /// Numbers that count for no capacity: of pushes that came to nothing after all, of messages
    /// beside the lanes, of those dropped at once.
    void: AtomicU64,
    /// Messages that wait no longer. Only the owner writes it, so it needs no atomic addition.
    started: AtomicU64,
    /// Messages beside the lanes that have not ended.
    bypassing: AtomicU32,
    refused: [AtomicU64; Refusal::ALL.len()],
    observed: AtomicBool,
    refusals: Mutex<Refusals>,
    capacity: Option<u64>,
    max_bypass: u32,
    limits: Limits,
    /// Those of groups with settings of their own.
    own_limits: RwLock<HashMap<CompactString, Limits>>,
}

/// A message on its way from its producer to the owner.
pub(crate) struct Arrival<P> {
    pub(crate) payload: P,
    pub(crate) at: Time,
    pub(crate) seq: Seq,
    pub(crate) sender: CompactString,
    pub(crate) extra: Option<Box<Extra>>,
    pub(crate) way: Way,
    pub(crate) flush: bool,
    pub(crate) standalone: bool,
    pub(crate) real_time: bool,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Into the lane of its sender.
    Lane,
    /// Into the group's context.
    Context,
    /// Beside everything.
    Bypass,
    /// Nowhere: its group is full and drops what comes.
    Out,
}

/// Refusals that the owner has not heard of yet. Producers may be faster than it for long.
#[derive(Default)]
struct Refusals {
    events: Vec<Event>,
    missed: u64,
}

impl Refusals {
    fn keep(&mut self, event: Event) {
        if self.events.len() < MOST_REFUSALS {
            self.events.push(event);
        } else {
            self.missed += 1;
        }
    }

    fn told(mut self) -> Vec<Event> {
        if self.missed > 0 {
            self.events.push(Event::EventsMissed { count: self.missed });
        }
        self.events
    }
}

const MOST_REFUSALS: usize = 10_000;

/// Why a push did not get in.
enum NotAdmitted<P> {
    Refused {
        arrival: Arrival<P>,
        reason: Refusal,
        depth: u64,
        stale: bool,
    },
    /// Its group is being forgotten.
    Forgotten(Arrival<P>),
}

pub(crate) type GroupInbox<P> = Inbox<Arrival<P>, Shared>;

impl<P> Intake<P> {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            names: Names::new(),
            ready: Ready::new(),
            closed: AtomicBool::new(false),
            next_seq: AtomicU64::new(0),
            void: AtomicU64::new(0),
            started: AtomicU64::new(0),
            bypassing: AtomicU32::new(0),
            refused: Default::default(),
            observed: AtomicBool::new(false),
            refusals: Mutex::default(),
            capacity: settings.capacity.map(u64::from),
            max_bypass: settings.max_bypass,
            limits: Limits::of(settings, false),
            own_limits: RwLock::default(),
        }
    }

    /// Takes a message, or says why not.
    pub fn push(
        &self,
        now: Time,
        group: &str,
        sender: &str,
        payload: P,
        options: Options,
    ) -> Result<Accepted, Refused<P>> {
        self.push_as(Attempt::First, now, group, sender, payload, options)
    }

    /// The same, by somebody who has tried before, or would stand in line.
    pub fn push_as(
        &self,
        attempt: Attempt,
        now: Time,
        group: &str,
        sender: &str,
        payload: P,
        options: Options,
    ) -> Result<Accepted, Refused<P>> {
        self.push_to(
            (attempt, Finds::Unknown),
            now,
            group,
            sender,
            payload,
            options,
        )
    }

    /// The same, knowing how it finds its lane.
    pub(crate) fn push_to(
        &self,
        how: (Attempt, Finds),
        now: Time,
        group: &str,
        sender: &str,
        payload: P,
        options: Options,
    ) -> Result<Accepted, Refused<P>> {
        let (attempt, _) = how;
        let mut arrival = Arrival::new(now, sender, payload, options);
        loop {
            let make = |name: &str| Shared::new(name, self.limits_of(name));
            let admitted = self
                .names
                .with(group, &self.closed, arrival, make, |inbox, arrival| {
                    let admitted = self.admit(inbox, arrival, how);
                    let used = if admitted.is_ok() {
                        Used::Yes
                    } else {
                        Used::No
                    };
                    (admitted, used)
                });
            match admitted {
                Err(arrival) => {
                    let known = self.names.find(group);
                    let depth = known.map_or(0, |inbox| u64::from(inbox.group().waiting()));
                    return Err(self.refuse(group, arrival, Refusal::Closed, depth));
                }
                Ok(Ok(accepted)) => return Ok(accepted),
                Ok(Err(NotAdmitted::Refused {
                    arrival,
                    reason,
                    depth,
                    stale,
                })) => {
                    let full = matches!(reason, Refusal::GroupFull | Refusal::Full);
                    if stale || (full && attempt == Attempt::Willing) {
                        return Err(arrival.refused(reason, depth, stale));
                    }
                    return Err(self.refuse(group, arrival, reason, depth));
                }
                // The idle group was forgotten under our hands: meet it anew.
                Ok(Err(NotAdmitted::Forgotten(back))) => arrival = back,
            }
        }
    }

    /// Places taken in all groups: by messages accepted and not yet started, and kept for those who
    /// have been served in line.
    pub fn depth(&self) -> u64 {
        let gone = self.started.load(Ordering::Relaxed) + self.void.load(Ordering::Relaxed);
        self.next_seq.load(Ordering::Relaxed).saturating_sub(gone)
    }

    /// Every group it holds something of, or did a moment ago, by name.
    pub fn names(&self) -> Vec<CompactString> {
        let names = self.names.all().into_iter();
        let mut names: Vec<_> = names.map(|inbox| inbox.group().name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Messages beside the lanes that have not ended.
    pub fn bypassing(&self) -> u32 {
        self.bypassing.load(Ordering::Relaxed)
    }

    /// Whether pushes are refused for good.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ids before capacity (A1); nothing is kept of a push that fails on the way.
    fn admit(
        &self,
        inbox: &Arc<GroupInbox<P>>,
        mut arrival: Arrival<P>,
        (attempt, finds): (Attempt, Finds),
    ) -> Result<Accepted, NotAdmitted<P>> {
        let group = inbox.group();
        let limits = group.limits();
        if finds == Finds::Nothing {
            return Err(NotAdmitted::Refused {
                arrival,
                reason: Refusal::Unserved,
                depth: u64::from(group.waiting()),
                stale: false,
            });
        }
        let id = arrival.extra.as_ref().and_then(|extra| extra.id.clone());
        // Held to the end: an id must not be seen accepted before its message is in the inbox.
        let mut ids = id.is_some().then(|| group.ids());
        if let (Some(ids), Some(id)) = (&mut ids, &id)
            && ids
                .as_ref()
                .is_some_and(|ids| ids.is_duplicate(id, arrival.at, self.dedup(group, limits)))
        {
            return Err(NotAdmitted::Refused {
                arrival,
                reason: Refusal::Duplicate,
                depth: u64::from(group.waiting()),
                stale: false,
            });
        }
        let unknown = finds == Finds::Unknown && arrival.asks_the_owner(limits);
        if unknown || finds == Finds::Busy {
            return Err(NotAdmitted::Refused {
                arrival,
                reason: Refusal::Busy,
                depth: u64::from(group.waiting()),
                stale: unknown,
            });
        }
        let place = match self.reserve(group, limits, arrival.way, attempt) {
            Ok(place) => place,
            Err((reason, depth)) => {
                let full = matches!(reason, Refusal::GroupFull | Refusal::Full);
                return Err(NotAdmitted::Refused {
                    arrival,
                    reason,
                    depth,
                    stale: full && attempt == Attempt::First && limits.is_stale(),
                });
            }
        };
        let Place { way, seq, crowded } = place;
        (arrival.way, arrival.seq) = (way, seq);
        if let (Some(ids), Some(id)) = (&mut ids, &id)
            && way != Way::Out
        {
            ids.get_or_insert_default().accept(id, seq, arrival.at);
        }
        let expires = arrival
            .extra
            .as_ref()
            .is_some_and(|extra| extra.ttl.is_some());
        if expires && !limits.is_stale() {
            group.set_stale();
        }
        match self.ready.push(inbox, arrival) {
            Ok(wake) => Ok(Accepted {
                seq,
                wake,
                evicted: way == Way::Out,
                crowded,
            }),
            Err(arrival) => {
                if let (Some(Some(ids)), Some(id)) = (ids.as_deref_mut(), &id)
                    && way != Way::Out
                {
                    ids.forget(id);
                }
                match way {
                    Way::Lane => self.give_back(group),
                    Way::Bypass => self.end_bypass(),
                    Way::Context | Way::Out => {}
                }
                Err(NotAdmitted::Forgotten(arrival))
            }
        }
    }

    /// A place in the group and one in the whole queue, which is a number in the push order.
    fn reserve(
        &self,
        group: &Shared,
        limits: Word,
        way: Way,
        attempt: Attempt,
    ) -> Result<Place, (Refusal, u64)> {
        let beside = |way| Place {
            way,
            seq: self.uncounted_number(),
            crowded: false,
        };
        match way {
            // The place was taken when the line moved on, and a number with it.
            Way::Lane if attempt == Attempt::Served => return Ok(beside(way)),
            Way::Lane => {}
            Way::Bypass => {
                let bypassing = self.bypassing.fetch_add(1, Ordering::Relaxed);
                if bypassing >= self.max_bypass {
                    self.end_bypass();
                    return Err((Refusal::BypassFull, u64::from(bypassing)));
                }
                return Ok(beside(way));
            }
            Way::Context | Way::Out => return Ok(beside(way)),
        }
        if limits.has_line() {
            return Err((Refusal::GroupFull, u64::from(group.waiting())));
        }
        let counted = group.count_in(limits);
        let counted = counted.map_err(|waiting| (Refusal::GroupFull, u64::from(waiting)))?;
        let Some(seq) = self.number() else {
            group.count_out();
            return Err((Refusal::Full, self.depth()));
        };
        let way = match counted {
            Counted::In | Counted::Crowded => Way::Lane,
            Counted::Out => {
                self.give_back(group);
                Way::Out
            }
        };
        let crowded = counted == Counted::Crowded;
        Ok(Place { way, seq, crowded })
    }

    /// The next number in the push order, unless all of them together are as many as may wait.
    fn number(&self) -> Option<Seq> {
        let Some(capacity) = self.capacity else {
            return Some(Seq(self.next_seq.fetch_add(1, Ordering::Relaxed)));
        };
        let number = self
            .next_seq
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seq| {
                (self.depth() < capacity).then_some(seq + 1)
            });
        number.ok().map(Seq)
    }

    fn uncounted_number(&self) -> Seq {
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        self.void.fetch_add(1, Ordering::Relaxed);
        Seq(seq)
    }

    /// A place that was taken is free again; its number stays unused.
    pub(crate) fn give_back(&self, group: &Shared) {
        group.count_out();
        self.void.fetch_add(1, Ordering::Relaxed);
    }

    /// A message beside the lanes has ended, or has not come in.
    pub(crate) fn end_bypass(&self) {
        self.bypassing.fetch_sub(1, Ordering::Relaxed);
    }

    fn limits_of(&self, group: &str) -> Limits {
        let own = self
            .own_limits
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if own.is_empty() {
            return self.limits;
        }
        own.get(group).copied().unwrap_or(self.limits)
    }

    fn dedup(&self, group: &Shared, limits: Word) -> Duration {
        if limits.is_own() {
            self.limits_of(&group.name).dedup
        } else {
            self.limits.dedup
        }
    }

    fn refuse(&self, group: &str, arrival: Arrival<P>, reason: Refusal, depth: u64) -> Refused<P> {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
        if self.observed.load(Ordering::Relaxed) {
            let event = Event::MessageRefused {
                group: group.into(),
                sender: arrival.sender.clone(),
                reason,
                depth,
                at: arrival.at,
                id: arrival.extra.as_ref().and_then(|extra| extra.id.clone()),
            };
            lock(&self.refusals).keep(event);
        }
        arrival.refused(reason, depth, false)
    }
}

impl<P> Arrival<P> {
    /// Whether only the owner can say if it may come in: it is refused by a busy lane, or has a policy
    /// of its own that has to be one its group can serve.
    fn asks_the_owner(&self, limits: Word) -> bool {
        let own = self.extra.as_ref().and_then(|extra| extra.on_busy);
        match own {
            _ if self.way != Way::Lane => false,
            None => limits.rejects(),
            Some(own) => own != OnBusy::Enqueue,
        }
    }

    fn refused(self, reason: Refusal, depth: u64, stale: bool) -> Refused<P> {
        let extra = self.extra.map(|extra| *extra).unwrap_or_default();
        Refused {
            payload: self.payload,
            options: Box::new(Options {
                id: extra.id,
                at: extra.at,
                size: extra.size,
                batch_key: extra.batch_key,
                quiet: extra.quiet,
                rank: extra.rank,
                ttl: extra.ttl,
                delay: extra.delay,
                flush: self.flush,
                standalone: self.standalone,
                real_time: self.real_time,
                context: self.way == Way::Context,
                bypass: self.way == Way::Bypass,
                background: extra.background,
                on_busy: extra.on_busy,
                inside: extra.inside,
            }),
            reason,
            depth,
            stale,
        }
    }

    fn new(now: Time, sender: &str, payload: P, options: Options) -> Self {
        let Options {
            id,
            at,
            size,
            batch_key,
            quiet,
            rank,
            ttl,
            delay,
            flush,
            standalone,
            real_time,
            context,
            bypass,
            background,
            on_busy,
            inside,
        } = options;
        let delay = delay.filter(|delay| !delay.is_zero());
        let extra = Extra {
            id,
            at,
            size,
            batch_key,
            quiet,
            rank,
            ttl,
            delay,
            background,
            on_busy,
            inside,
        };
        let extra = (extra != Extra::default()).then(|| Box::new(extra));
        let way = match (context, bypass) {
            (_, true) => Way::Bypass,
            (true, false) => Way::Context,
            (false, false) => Way::Lane,
        };
        Self {
            payload,
            at: now,
            seq: Seq(0),
            sender: CompactString::from(sender),
            extra,
            way,
            flush,
            standalone,
            real_time,
        }
    }
}

/// Whether a place could be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Place,
    /// The group has none.
    GroupFull,
    /// The group has one, all together have none.
    Full,
    /// The group drops what comes.
    NoneNeeded,
}

/// Where a push was let in.
struct Place {
    way: Way,
    seq: Seq,
    crowded: bool,
}

/// The owner's side.
impl<P> Intake<P> {
    /// The group's inbox, made if need be, also when pushes are refused: a group can be paused then.
    pub(crate) fn open(&self, group: &str) -> Arc<GroupInbox<P>> {
        let make = |name: &str| Shared::new(name, self.limits_of(name));
        self.names.open(group, make)
    }

    pub(crate) fn find(&self, group: &str) -> Option<Arc<GroupInbox<P>>> {
        self.names.find(group)
    }

    /// Messages of a group have started, or ended before they did: their places are free.
    pub(crate) fn release(&self, group: &Shared, messages: u32) {
        group.release(messages);
        let started = self.started.load(Ordering::Relaxed) + u64::from(messages);
        self.started.store(started, Ordering::Relaxed);
    }

    /// The same for a group by name, whether it has been met or not.
    pub(crate) fn set_own_limits(&self, group: &str, settings: &Settings) {
        let limits = Limits::of(settings, true);
        let mut own = self
            .own_limits
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        own.insert(group.into(), limits);
        drop(own);
        if let Some(inbox) = self.find(group) {
            inbox.group().set_own();
        }
    }

    /// Takes a place in a group and in all for somebody in line.
    pub(crate) fn take_place(&self, group: &Shared) -> Taken {
        let Ok(counted) = group.count_in(group.limits()) else {
            return Taken::GroupFull;
        };
        if counted == Counted::Out {
            // It will be taken and dropped, which takes no place.
            group.count_out();
            let room = self.capacity.is_none_or(|most| self.depth() < most);
            return if room { Taken::NoneNeeded } else { Taken::Full };
        }
        if self.number().is_none() {
            group.count_out();
            return Taken::Full;
        }
        Taken::Place
    }

    /// Forgets a group, unless something has just come in.
    pub(crate) fn forget(&self, inbox: &Arc<GroupInbox<P>>) -> bool {
        let forgotten = inbox.retire();
        if forgotten {
            self.names.remove(inbox);
        }
        forgotten
    }

    /// Refuses every push from now on. What was accepted before is in the inboxes returned.
    pub(crate) fn close(&self) -> Vec<Arc<GroupInbox<P>>> {
        self.closed.store(true, Ordering::Release);
        self.names.all()
    }

    /// Every group's inbox, in no particular order.
    pub(crate) fn all(&self) -> Vec<Arc<GroupInbox<P>>> {
        self.names.all()
    }

    pub(crate) fn observe(&self, on: bool) {
        self.observed.store(on, Ordering::Relaxed);
    }

    pub(crate) fn take_refusals(&self) -> Vec<Event> {
        std::mem::take(&mut *lock(&self.refusals)).told()
    }

    pub(crate) fn refused(&self) -> [u64; Refusal::ALL.len()] {
        std::array::from_fn(|reason| self.refused[reason].load(Ordering::Relaxed))
    }
}
