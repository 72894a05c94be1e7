//! FIFO of one sender within one group, while something of them waits or runs.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use crate::ids::{ActivityId, GroupId, HeldId, LaneId, LeaseSlot, MessageId, SenderId};
use crate::message::{Flag, Messages, Place};
use crate::order::{Claim, Score};
use crate::window::{ClosedBy, Found, Window};

/// What waits in a lane, and how much of it runs.
///
/// Messages leave in push order. Under `lanes="message"` each message is a batch of its own and any
/// number may run; otherwise at most one call of a lane runs at a time.
#[allow(clippy::struct_excessive_bools)] // each is looked at by itself
pub(crate) struct Lane {
    pub(crate) group: GroupId,
    pub(crate) activity: ActivityId,
    pub(crate) sender: SenderId,
    /// Neighbours in the group's list of lanes.
    pub(crate) previous: Option<LaneId>,
    pub(crate) next: Option<LaneId>,
    /// Oldest and youngest of what waits; never part of a call.
    head: Option<MessageId>,
    tail: Option<MessageId>,
    /// First message of the last window, and that window.
    last: Option<(MessageId, Window)>,
    pub(crate) waiting: u32,
    /// Batches that go before what waits, and their first messages.
    pub(crate) held: VecDeque<(HeldId, MessageId)>,
    /// The first of them may not start yet, and so may nothing else.
    pub(crate) backs_off: bool,
    /// A message that has interrupted: it goes before them, but for so many that have come back since.
    pub(crate) interrupter: Option<MessageId>,
    pub(crate) ahead: u32,
    /// Of the messages that were put back into its first window: first and number of what their call
    /// had as context.
    pub(crate) context: Option<(MessageId, u32)>,
    /// Its next start has been charged already.
    pub(crate) charged: bool,
    /// Of messages that nobody said.
    pub(crate) background: bool,
    /// Of messages for the fallback.
    pub(crate) fallback: bool,
    /// Running calls.
    pub(crate) running: u32,
    /// The one that runs, unless any number may.
    pub(crate) call: Option<LeaseSlot>,
    /// Names this lane's entry in its group's contest; another number makes an entry outdated.
    pub(crate) stamp: u32,
    /// Under `lanes="message"`, where each message is for itself: all that wait, the best on top, with
    /// lazy deletion.
    candidates: BinaryHeap<Candidate>,
    /// What it puts forward there while it is able.
    pub(crate) score: Score,
    /// The engine's count of changes in scoring at that time.
    pub(crate) scored: u32,
    pub(crate) claim: Claim,
    /// Competes for a start.
    pub(crate) able: bool,
    /// Is on the engine's list of lanes to look at.
    pub(crate) touched: bool,
    /// Something has left the batch that it puts forward.
    pub(crate) shrunk: bool,
}

impl Lane {
    pub(crate) fn new(
        group: GroupId,
        activity: ActivityId,
        sender: SenderId,
        background: bool,
    ) -> Self {
        Self {
            group,
            activity,
            sender,
            previous: None,
            next: None,
            head: None,
            tail: None,
            last: None,
            waiting: 0,
            held: VecDeque::new(),
            backs_off: false,
            interrupter: None,
            ahead: 0,
            context: None,
            charged: false,
            background,
            fallback: false,
            running: 0,
            call: None,
            stamp: 0,
            candidates: BinaryHeap::new(),
            score: Score::default(),
            scored: 0,
            claim: Claim::default(),
            able: false,
            touched: false,
            shrunk: false,
        }
    }

    pub(crate) fn head(&self) -> Option<MessageId> {
        self.head
    }

    /// First message of the batch that it puts forward, if it is due.
    pub(crate) fn offer(&self) -> Option<MessageId> {
        let again = self.again().map(|(_, first)| first);
        let best = self.candidates.peek().map(|best| best.id);
        best.or(again).or(self.head)
    }

    /// The batch that goes before what waits.
    pub(crate) fn again(&self) -> Option<(HeldId, MessageId)> {
        match self.interrupter {
            Some(_) if self.ahead == 0 => None,
            _ => self.held.front().copied(),
        }
    }

    /// The offer as it starts: from here on it competes no more.
    pub(crate) fn take_offer(&mut self) -> Option<MessageId> {
        let offer = self.offer();
        self.candidates.pop();
        offer
    }

    /// The same for one of those that are for themselves.
    pub(crate) fn take_candidate(&mut self, id: MessageId) {
        self.candidates.retain(|candidate| candidate.id != id);
    }

    /// Those that are for themselves and compete, the best first.
    pub(crate) fn ranked<P>(&self, messages: &Messages<P>) -> Vec<(MessageId, Score)> {
        let competing = self.candidates.iter().filter(|it| it.competes(messages));
        let mut ranked: Vec<_> = competing.collect();
        ranked.sort_unstable_by(|one, other| other.cmp(one));
        ranked.into_iter().map(|it| (it.id, it.score)).collect()
    }

    /// A message that is for itself has come.
    pub(crate) fn stand<P>(
        &mut self,
        id: MessageId,
        claim: Claim,
        score: Score,
        messages: &Messages<P>,
    ) {
        if self.candidates.len() > 2 * (self.waiting as usize + self.held.len()) + 64 {
            self.candidates.retain(|other| other.competes(messages));
        }
        self.candidates.push(Candidate {
            claim: Reverse(claim),
            id,
            score,
        });
    }

    /// Those that are for themselves and still compete, to be compared otherwise.
    pub(crate) fn take_candidates<P>(&mut self, messages: &Messages<P>) -> Vec<(MessageId, Score)> {
        let candidates = std::mem::take(&mut self.candidates).into_iter();
        let competing = candidates.filter(|it| it.competes(messages));
        competing.map(|it| (it.id, it.score)).collect()
    }

    /// The score of the best of those that are for themselves, once those that have left are gone.
    pub(crate) fn best_score<P>(&mut self, messages: &Messages<P>) -> Option<Score> {
        while let Some(best) = self.candidates.peek() {
            if best.competes(messages) {
                return Some(best.score);
            }
            self.candidates.pop();
        }
        None
    }

    pub(crate) fn tail(&self) -> Option<MessageId> {
        self.tail
    }

    /// Whether nothing waits in it and nothing runs.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting == 0 && self.running == 0 && self.held.is_empty()
    }

    /// Whether the last window is the oldest too.
    pub(crate) fn has_one_window(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|(opened, _)| self.head == Some(*opened))
    }

    /// Whether the oldest window is due. All but the last have been cut, so they are.
    pub(crate) fn head_is_due(&self) -> bool {
        match &self.last {
            Some((opened, window)) => self.head != Some(*opened) || window.is_due(),
            None => false,
        }
    }

    /// How a message finds the lane.
    pub(crate) fn found(&self) -> Found {
        if self.running > 0 || self.backs_off {
            Found::Busy
        } else if self.is_over() {
            Found::Idle
        } else {
            Found::Waiting
        }
    }

    /// The last window.
    pub(crate) fn window(&self) -> Option<&Window> {
        self.last.as_ref().map(|(_, window)| window)
    }

    pub(crate) fn window_mut(&mut self) -> Option<&mut Window> {
        self.last.as_mut().map(|(_, window)| window)
    }

    /// Makes the last window due for good. Returns how many messages it holds if it was not.
    pub(crate) fn close_window<P>(
        &mut self,
        messages: &mut Messages<P>,
        by: ClosedBy,
    ) -> Option<u32> {
        let (opened, window) = self.last.as_mut()?;
        if window.is_due() {
            return None;
        }
        window.close();
        messages[*opened].set_closed_by(by);
        Some(window.messages())
    }

    /// Appends a message that opens a window, or one that has joined the last.
    pub(crate) fn append<P>(
        &mut self,
        messages: &mut Messages<P>,
        id: MessageId,
        opens: Option<Window>,
    ) {
        match self.tail {
            Some(tail) => messages[tail].next = Some(id),
            None => self.head = Some(id),
        }
        self.tail = Some(id);
        self.waiting += 1;
        if let Some(window) = opens {
            messages[id].set(Flag::Opens);
            self.last = Some((id, window));
        }
    }

    /// Puts linked messages in front of all that wait.
    pub(crate) fn prepend<P>(
        &mut self,
        messages: &mut Messages<P>,
        first: MessageId,
        last: MessageId,
        count: u32,
    ) {
        messages[last].next = self.head.replace(first);
        self.tail.get_or_insert(last);
        self.waiting += count;
    }

    /// Takes the oldest window off: its first message and how many there are.
    pub(crate) fn take_window<P>(
        &mut self,
        messages: &mut Messages<P>,
    ) -> Option<(MessageId, u32)> {
        let first = self.head?;
        let (mut end, mut count) = (first, 1);
        let mut interrupts = self.interrupter == Some(first);
        while let Some(next) = messages[end].next
            && !messages[next].has(Flag::Opens)
        {
            end = next;
            count += 1;
            interrupts |= self.interrupter == Some(next);
        }
        if interrupts {
            self.interrupter = None;
        }
        messages.forget_due(first);
        self.head = messages[end].next.take();
        self.waiting -= count;
        if self.head.is_none() {
            self.tail = None;
            self.last = None;
        }
        Some((first, count))
    }

    /// Takes everything off that waits.
    pub(crate) fn take_all(&mut self) -> Option<MessageId> {
        self.tail = None;
        self.last = None;
        self.waiting = 0;
        self.candidates.clear();
        self.interrupter = None;
        self.head.take()
    }

    /// First message of the last window.
    pub(crate) fn opened(&self) -> Option<MessageId> {
        self.last.as_ref().map(|(opened, _)| *opened)
    }

    pub(crate) fn set_last(&mut self, last: Option<(MessageId, Window)>) {
        self.last = last;
    }

    /// Unlinks a message that waits, and says where it stood. The window it opened goes on with the
    /// next one; if it was alone in the last window, that is for the caller to replace.
    pub(crate) fn unlink<P>(&mut self, messages: &mut Messages<P>, id: MessageId) -> Unlinked {
        let (mut before, mut opened, mut opened_before) = (None, None, None);
        let mut at = self.head;
        while let Some(other) = at {
            if messages[other].has(Flag::Opens) {
                opened_before = opened.replace(other);
            }
            if other == id {
                break;
            }
            (before, at) = (at, messages[other].next);
        }
        let next = messages[id].next.take();
        self.interrupter.take_if(|interrupter| *interrupter == id);
        match before {
            Some(before) => messages[before].next = next,
            None => self.head = next,
        }
        if next.is_none() {
            self.tail = before;
        }
        self.waiting -= 1;
        let goes_on = next.filter(|&next| !messages[next].has(Flag::Opens));
        let window = if opened == Some(id) {
            if let Some(heir) = goes_on {
                messages[heir].set(Flag::Opens);
                let by = messages[id].closed_by();
                messages[heir].set_closed_by(by);
                if let Some(since) = messages.forget_due(id) {
                    messages.set_due_since(heir, since);
                }
                if let Some((last, _)) = self.last.as_mut().filter(|(last, _)| *last == id) {
                    *last = heir;
                }
            }
            goes_on
        } else {
            opened
        };
        Unlinked {
            window,
            before: opened_before,
        }
    }
}

/// A message that is for itself, by what it has to say for that.
struct Candidate {
    claim: Reverse<Claim>,
    id: MessageId,
    score: Score,
}

impl Candidate {
    fn competes<P>(&self, messages: &Messages<P>) -> bool {
        let message = messages.get(self.id, self.claim.0.since);
        message.is_some_and(|message| matches!(message.place(), Place::Lane | Place::Held))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.claim.cmp(&other.claim)
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.claim == other.claim
    }
}

impl Eq for Candidate {}

/// Where a message stood that has been unlinked.
pub(crate) struct Unlinked {
    /// First of the window that it was in, if something of that is left.
    pub(crate) window: Option<MessageId>,
    /// First of the window before.
    pub(crate) before: Option<MessageId>,
}
