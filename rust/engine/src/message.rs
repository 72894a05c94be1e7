//! A message that waits or runs: 32 bytes, and a side box for those that ask for more.

use std::collections::HashMap;
use std::time::Duration;

use crate::ids::{MessageId, SenderId};
use crate::slab::Slab;
use crate::window::{ClosedBy, Newcomer};
use crate::{LeaseId, OnBusy, Points, Size, Time};

/// Push order over the whole queue, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub(crate) u64);

impl Seq {
    /// The reverse of [`Self::as_u64`].
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The plain number.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The id of a message that was pushed without one.
    pub fn automatic_id(self) -> String {
        format!("#{}", self.0)
    }

    /// The reverse of [`Self::automatic_id`].
    pub fn from_automatic_id(id: &str) -> Option<Self> {
        let number = id.strip_prefix('#')?;
        let plain = number.bytes().all(|byte| byte.is_ascii_digit()); // parsing takes a sign too
        plain.then(|| number.parse().ok().map(Self))?
    }
}

/// How quickly messages followed each other; of a batch the highest of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Far from the one before.
    Single,
    /// Close on the sender's previous message.
    BackToBack,
    /// Third or later of a quick run: the sender's last message but one is close too.
    Burst,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::BackToBack => "back_to_back",
            Self::Burst => "burst",
        }
    }
}

/// One thing somebody said.
pub(crate) struct Message<P> {
    pub(crate) payload: P,
    /// When it arrived: all gaps and waits are measured from here.
    pub(crate) at: Time,
    tag: Tag,
    /// The next younger message of its lane or call.
    pub(crate) next: Option<MessageId>,
    pub(crate) sender: SenderId,
}

impl<P> Message<P> {
    pub(crate) fn seq(&self) -> Seq {
        Seq(self.tag.0 >> FLAG_BITS)
    }

    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.tag.0 & flag as u64 != 0
    }

    pub(crate) fn set(&mut self, flag: Flag) {
        self.tag.0 |= flag as u64;
    }

    pub(crate) fn unset(&mut self, flag: Flag) {
        self.tag.0 &= !(flag as u64);
    }

    /// Where it is, as long as it has not ended.
    pub(crate) fn place(&self) -> Place {
        match (
            self.has(Flag::Running) || self.has(Flag::Leaving),
            self.has(Flag::Held),
            self.has(Flag::Delayed),
            self.has(Flag::Context),
            self.has(Flag::Bypass),
        ) {
            (true, ..) => Place::Call,
            (_, true, ..) => Place::Held,
            (_, _, true, ..) => Place::Delayed,
            (.., true, _) => Place::Context,
            (.., true) => Place::Bypass,
            _ => Place::Lane,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match (self.has(Flag::BackToBack), self.has(Flag::Burst)) {
            (_, true) => Kind::Burst,
            (true, false) => Kind::BackToBack,
            (false, false) => Kind::Single,
        }
    }

    /// Why the window that this message opened closed; kept with its first message, so that the
    /// windows that wait in front of a lane's last one need no room of their own.
    pub(crate) fn closed_by(&self) -> ClosedBy {
        ClosedBy::ALL[(self.tag.0 >> CLOSED_BY_SHIFT & 15) as usize]
    }

    pub(crate) fn set_closed_by(&mut self, by: ClosedBy) {
        self.tag.0 = self.tag.0 & !(15 << CLOSED_BY_SHIFT) | (by as u64) << CLOSED_BY_SHIFT;
    }
}

/// A sequence number of 43 bits (a million a second for a hundred days) above 17 flags and, among these,
/// 4 bits for what closed the window.
#[derive(Clone, Copy)]
struct Tag(u64);

const FLAG_BITS: u32 = 21;
const CLOSED_BY_SHIFT: u32 = 16;

/// What is known of every message and fits a bit.
#[derive(Clone, Copy)]
pub(crate) enum Flag {
    /// Has a side box.
    Extra = 1,
    /// First of its window.
    Opens = 2,
    /// Close on the sender's previous message.
    BackToBack = 4,
    /// Third of a quick run.
    Burst = 8,
    /// Makes its window due at once.
    Flush = 16,
    /// Shares its batch with nobody.
    Standalone = 32,
    /// Said now, in a conversation by voice say.
    RealTime = 64,
    /// Has yet to arrive.
    Delayed = 128,
    /// Listened to: no call of its own.
    Context = 256,
    /// Starts beside everything.
    Bypass = 512,
    /// Is part of a call.
    Running = 1024,
    /// Found its lane idle.
    FoundIdle = 2048,
    /// Found a call of its lane running.
    FoundBusy = 4096,
    /// Waits nowhere any more, and is about to end.
    Leaving = 8192,
    /// Has been handed over, and will be again.
    Held = 16_384,
    /// Was part of a call once: it counts for no capacity any more.
    Started = 32_768,
    /// Would be listened to, but goes to the fallback.
    Listened = 1_048_576,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Lane,
    Call,
    Held,
    Delayed,
    Context,
    Bypass,
}

/// What few messages ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Extra {
    pub(crate) id: Option<Box<str>>,
    /// The platform's time: shown, and used by `keep="latest"` alone.
    pub(crate) at: Option<Time>,
    pub(crate) size: Size,
    pub(crate) batch_key: Option<Box<str>>,
    pub(crate) quiet: Option<Duration>,
    pub(crate) rank: Points,
    pub(crate) ttl: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    /// Nobody said it: it goes behind what somebody did.
    pub(crate) background: bool,
    /// What it does to a running call, if that is not what its group's messages do.
    pub(crate) on_busy: Option<OnBusy>,
    /// The call that pushed it.
    pub(crate) inside: Option<LeaseId>,
}

/// How a message was put off that had been handed over.
#[derive(Clone, Copy, Default)]
pub(crate) struct PutOff {
    /// How often.
    pub(crate) times: u32,
    /// The last time it was as if that had never been.
    pub(crate) rolled_back: bool,
}

/// All messages that wait or run.
pub(crate) struct Messages<P> {
    slab: Slab<MessageId, Message<P>>,
    extras: HashMap<MessageId, Box<Extra>>,
    put_off: HashMap<MessageId, PutOff>,
    /// Since when windows are due that wait behind a call or another, by their first messages; kept
    /// only where a batch may end the call of another lane.
    due_since: HashMap<MessageId, Time>,
}

impl<P> Messages<P> {
    pub(crate) fn new() -> Self {
        Self {
            slab: Slab::new(),
            extras: HashMap::new(),
            put_off: HashMap::new(),
            due_since: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = MessageId> {
        self.slab.iter().map(|(id, _)| id)
    }

    pub(crate) fn insert(
        &mut self,
        payload: P,
        seq: Seq,
        at: Time,
        sender: SenderId,
        extra: Option<Box<Extra>>,
    ) -> MessageId {
        let flags = if extra.is_some() {
            Flag::Extra as u64
        } else {
            0
        };
        let tag = Tag(seq.0 << FLAG_BITS | flags);
        let id = self.slab.insert(Message {
            payload,
            at,
            tag,
            next: None,
            sender,
        });
        if let Some(extra) = extra {
            self.extras.insert(id, extra);
        }
        id
    }

    pub(crate) fn remove(&mut self, id: MessageId) -> (Message<P>, Option<Box<Extra>>) {
        let message = self.slab.remove(id);
        if !self.put_off.is_empty() {
            self.put_off.remove(&id);
        }
        self.forget_due(id);
        let extra = if message.has(Flag::Extra) {
            self.extras.remove(&id)
        } else {
            None
        };
        (message, extra)
    }

    pub(crate) fn extra(&self, id: MessageId) -> Option<&Extra> {
        if self.slab[id].has(Flag::Extra) {
            self.extras.get(&id).map(|extra| &**extra)
        } else {
            None
        }
    }

    /// The message that was given this name, if it is still there.
    pub(crate) fn get(&self, id: MessageId, seq: Seq) -> Option<&Message<P>> {
        self.slab.get(id).filter(|message| message.seq() == seq)
    }

    /// The last instant at which a message may start, if its group's messages may wait for `ttl`.
    pub(crate) fn expires_at(&self, id: MessageId, ttl: Option<Duration>) -> Time {
        let own = self.extra(id).and_then(|extra| extra.ttl);
        own.or(ttl)
            .map_or(Time::NEVER, |ttl| self.slab[id].at.after(ttl))
    }

    /// How it was put off so far.
    pub(crate) fn put_off(&self, id: MessageId) -> PutOff {
        if self.put_off.is_empty() {
            return PutOff::default(); // spares most queues the hash
        }
        self.put_off.get(&id).copied().unwrap_or_default()
    }

    /// It is put off once more.
    pub(crate) fn put_off_again(&mut self, id: MessageId, rolled_back: bool) {
        let before = self.put_off.entry(id).or_default();
        before.times += 1;
        before.rolled_back = rolled_back;
    }

    /// The same for all that are linked from `first` on.
    pub(crate) fn put_off_all(&mut self, first: MessageId, rolled_back: bool) {
        let mut next = Some(first);
        while let Some(id) = next {
            next = self.slab[id].next;
            self.put_off_again(id, rolled_back);
        }
    }

    /// The most often that one of those linked from `first` on was put off.
    pub(crate) fn most_put_off(&self, first: MessageId) -> u32 {
        if self.put_off.is_empty() {
            return 0;
        }
        let all = self.chain(Some(first)).map(|id| self.put_off(id).times);
        all.max().unwrap_or(0)
    }

    /// Whether it counts as never handed over (rule C4).
    pub(crate) fn is_new(&self, id: MessageId) -> bool {
        !self.slab[id].has(Flag::Started) || self.put_off(id).rolled_back
    }

    pub(crate) fn due_since(&self, first: MessageId) -> Option<Time> {
        self.due_since.get(&first).copied()
    }

    pub(crate) fn set_due_since(&mut self, first: MessageId, at: Time) {
        self.due_since.insert(first, at);
    }

    pub(crate) fn forget_due(&mut self, first: MessageId) -> Option<Time> {
        if self.due_since.is_empty() {
            return None;
        }
        self.due_since.remove(&first)
    }

    /// Whether nobody said it.
    pub(crate) fn is_background(&self, id: MessageId) -> bool {
        self.extra(id).is_some_and(|extra| extra.background)
    }

    pub(crate) fn rank(&self, id: MessageId) -> Points {
        self.extra(id).map_or(Points::ZERO, |extra| extra.rank)
    }

    pub(crate) fn size(&self, id: MessageId) -> Size {
        self.extra(id).map_or(Size::ONE, |extra| extra.size)
    }

    /// What a window has to know of a message.
    pub(crate) fn newcomer(&self, id: MessageId) -> Newcomer<'_> {
        let (message, extra) = (&self.slab[id], self.extra(id));
        Newcomer {
            at: message.at,
            size: extra.map_or(Size::ONE, |extra| extra.size),
            batch_key: extra.and_then(|extra| extra.batch_key.as_deref()),
            quiet: extra.and_then(|extra| extra.quiet),
            standalone: message.has(Flag::Standalone),
        }
    }

    /// Where all messages linked from `first` on are from now on.
    pub(crate) fn move_on(&mut self, first: Option<MessageId>, from: Flag, to: Option<Flag>) {
        let mut next = first;
        while let Some(id) = next {
            let message = &mut self.slab[id];
            next = message.next;
            message.unset(from);
            if let Some(to) = to {
                message.set(to);
            }
        }
    }

    /// The messages of the window that `first` opens, oldest first.
    pub(crate) fn window(&self, first: MessageId) -> impl Iterator<Item = MessageId> {
        std::iter::successors(Some(first), |&id| {
            self.slab[id]
                .next
                .filter(|&next| !self.slab[next].has(Flag::Opens))
        })
    }

    /// The messages linked from `first` on, oldest first.
    pub(crate) fn chain(&self, first: Option<MessageId>) -> impl Iterator<Item = MessageId> {
        std::iter::successors(first, |&id| self.slab[id].next)
    }
}

impl<P> std::ops::Index<MessageId> for Messages<P> {
    type Output = Message<P>;

    fn index(&self, id: MessageId) -> &Message<P> {
        &self.slab[id]
    }
}

impl<P> std::ops::IndexMut<MessageId> for Messages<P> {
    fn index_mut(&mut self, id: MessageId) -> &mut Message<P> {
        &mut self.slab[id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_32_bytes() {
        assert_eq!(size_of::<Message<Box<u8>>>(), 32);
    }

    #[test]
    fn an_automatic_id_leads_back_to_its_number() {
        assert_eq!(
            Seq::from_automatic_id(&Seq(17).automatic_id()),
            Some(Seq(17))
        );
        assert_eq!(Seq::from_automatic_id("17"), None);
        assert_eq!(Seq::from_automatic_id("#+17"), None);
    }
}
