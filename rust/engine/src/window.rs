//! When waiting messages become a batch (section W).
//!
//! A window opens with its first message. It grows until it is cut or full. It becomes *due*: after
//! a quiet period, after its longest wait, at once when it cannot grow any more or is flushed. Due is
//! for good: a due window takes in what fits until it starts, and nothing makes it wait again.
//! Only the last window of a lane can still be open; those before it have been cut, so they are due.

use std::sync::Arc;
use std::time::Duration;

use crate::settings::{Settings, Size};
use crate::time::{Time, micros};

/// What made a window due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// The quiet period after its last message.
    Quiet,
    /// The longest wait after its first.
    MaxWait,
    /// It is full, or the next message would not have fitted.
    Size,
    /// Another key, a long gap or a message that stands alone.
    Cut,
    /// Somebody asked for it.
    Flush,
    /// Its message found the lane idle.
    Idle,
    /// The call during which it gathered has ended.
    Busy,
    /// The queue is closing.
    Drain,
    /// None has: its message goes around all windows.
    Bypass,
}

impl ClosedBy {
    /// All of them, in the order of [`crate::Metrics::closed_by`].
    pub const ALL: [Self; 9] = [
        Self::Quiet,
        Self::MaxWait,
        Self::Size,
        Self::Cut,
        Self::Flush,
        Self::Idle,
        Self::Busy,
        Self::Drain,
        Self::Bypass,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::MaxWait => "max_wait",
            Self::Size => "size",
            Self::Cut => "cut",
            Self::Flush => "flush",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Drain => "drain",
            Self::Bypass => "bypass",
        }
    }
}

/// What a window has to know of a message.
pub(crate) struct Newcomer<'a> {
    pub(crate) at: Time,
    pub(crate) size: Size,
    pub(crate) batch_key: Option<&'a str>,
    pub(crate) quiet: Option<Duration>,
    pub(crate) standalone: bool,
}

/// How a message finds its lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing waits, runs or backs off.
    Idle,
    /// Something waits, nothing runs.
    Waiting,
    /// A call runs.
    Busy,
    /// A call runs that it may interrupt.
    Asking,
}

/// The last window of a lane.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // most combinations occur
pub(crate) struct Window {
    first: Time,
    last: Time,
    messages: u32,
    size: Size,
    quiet: Quiet,
    /// The quiet period of the last message.
    span: Duration,
    /// `min_batch` was reached once.
    reached: bool,
    /// Both as they were before the instant of the last message: a call that ends at that instant
    /// ended before the message came (rule T1).
    earlier: Option<(Quiet, bool)>,
    /// The last message has a quiet period of its own.
    own_quiet: bool,
    /// Somebody types: the quiet period does not end.
    held: bool,
    /// When somebody last stopped typing: it starts anew then.
    released: Time,
    due: bool,
    /// Those under which it was opened, once its group goes by others.
    settings: Option<Arc<Settings>>,
}

/// When the quiet period of the last message is over: (a) of rule W3.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    at: Time,
    by: ClosedBy,
    /// When the call that runs has ended, if that is earlier.
    after_call: bool,
}

impl Window {
    /// A window with its first message.
    pub(crate) fn open(
        with: &Newcomer<'_>,
        found: Found,
        typing: bool,
        settings: &Settings,
    ) -> Self {
        let mut window = Self::due(with.at, with.at, 0, Size::ZERO);
        window.due = false;
        window.join(with, found, typing, settings);
        window
    }

    /// One that waits for nothing but its start.
    pub(crate) fn due(first: Time, last: Time, messages: u32, size: Size) -> Self {
        Self {
            first,
            last,
            messages,
            size,
            quiet: Quiet::at(Time::NEVER, ClosedBy::Quiet),
            span: Duration::MAX,
            reached: false,
            earlier: None,
            own_quiet: false,
            held: false,
            released: Time::ZERO,
            due: true,
            settings: None,
        }
    }

    /// Takes in a message that fits.
    pub(crate) fn join(
        &mut self,
        with: &Newcomer<'_>,
        found: Found,
        typing: bool,
        current: &Settings,
    ) {
        let settings = self.settings.as_deref().unwrap_or(current);
        if with.at > self.last {
            self.earlier = Some((self.quiet, self.reached));
        }
        self.last = with.at;
        self.messages += 1;
        self.size = self.size.plus(with.size);
        self.reached |= self.messages >= settings.min_batch;
        (self.quiet, self.span) = Quiet::of(with.at, with.quiet, found, settings);
        self.own_quiet = with.quiet.is_some();
        self.held = typing && self.has_timer();
    }

    /// A message has left that was not alone; `tail` is the last one now. What is left can make the
    /// window due earlier, never later (rule W7). `call_ended` is set when no call runs that
    /// `tail` could wait for.
    pub(crate) fn leave(
        &mut self,
        size: Size,
        tail: &Newcomer<'_>,
        found: Found,
        call_ended: Option<Time>,
        current: &Settings,
    ) {
        let settings = self.settings.as_deref().unwrap_or(current);
        self.messages -= 1;
        self.size = self.size.minus(size);
        self.last = tail.at;
        self.earlier = None;
        let (mut left, span) = Quiet::of(tail.at, tail.quiet, found, settings);
        if let (true, Some(ended)) = (left.after_call, call_ended) {
            left = Quiet::at(ended, ClosedBy::Busy);
        }
        if left.by == ClosedBy::Quiet && self.released > Time::ZERO {
            left.at = left.at.max(self.released.after(span));
        }
        let after_call = left.after_call || self.quiet.after_call;
        if left.at < self.quiet.at {
            self.quiet = left;
        }
        self.quiet.after_call = after_call;
        self.span = span;
        self.own_quiet = tail.quiet.is_some();
    }

    /// Why `next` cannot join what waits here; `tail` is the last message that does.
    pub(crate) fn cut_by(
        &self,
        next: &Newcomer<'_>,
        tail: &Newcomer<'_>,
        current: &Settings,
    ) -> Option<ClosedBy> {
        let settings = self.settings.as_deref().unwrap_or(current);
        if tail.is_cut_from(next, settings.max_gap) {
            return Some(ClosedBy::Cut);
        }
        let fits = settings
            .max_batch
            .is_none_or(|max_batch| self.size.plus(next.size) <= max_batch);
        (!fits).then_some(ClosedBy::Size)
    }

    /// When its last message came.
    pub(crate) fn last(&self) -> Time {
        self.last
    }

    /// The gap that cuts it.
    pub(crate) fn max_gap(&self, current: &Settings) -> Option<Duration> {
        self.settings.as_deref().unwrap_or(current).max_gap
    }

    /// Whether somebody's typing holds it, and the quiet period that follows.
    pub(crate) fn held(&self) -> Option<Duration> {
        (self.held && !self.due).then_some(self.span)
    }

    /// Whether no further message can fit.
    pub(crate) fn is_full(&self, current: &Settings) -> bool {
        let settings = self.settings.as_deref().unwrap_or(current);
        settings
            .max_batch
            .is_some_and(|max_batch| self.size >= max_batch)
    }

    /// When it becomes due by itself, and why; [`Time::NEVER`] when it is due already.
    pub(crate) fn due_at(&self, current: &Settings) -> (Time, ClosedBy) {
        if self.due {
            return (Time::NEVER, ClosedBy::Quiet);
        }
        let settings = self.settings.as_deref().unwrap_or(current);
        let longest = self.first.after(settings.max_wait);
        if self.reached && !self.held && self.quiet.at <= longest {
            (self.quiet.at, self.quiet.by)
        } else {
            (longest, ClosedBy::MaxWait)
        }
    }

    /// From now on it waits for nothing but its start.
    pub(crate) fn close(&mut self) {
        self.due = true;
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    pub(crate) fn messages(&self) -> u32 {
        self.messages
    }

    /// Its group goes by other settings from now on; a window goes by those under which it was opened
    /// (rule C9).
    pub(crate) fn keep_settings(&mut self, settings: &Arc<Settings>) {
        self.settings.get_or_insert_with(|| settings.clone());
    }

    /// Somebody types (rule W8). Without a quiet timer that means nothing.
    pub(crate) fn hold(&mut self) {
        self.held = !self.due && self.has_timer();
    }

    /// Nobody types any more: the quiet period starts anew. Returns whether it had been held.
    pub(crate) fn release(&mut self, now: Time) -> bool {
        let held = std::mem::take(&mut self.held);
        if held {
            self.quiet.at = now.after(self.span);
            self.released = now;
        }
        held
    }

    /// The lane's call has ended (rule W5); `alone` says that no other window waits in the lane.
    /// Returns whether that makes this one due.
    pub(crate) fn call_ended(&mut self, now: Time, alone: bool, current: &Settings) -> bool {
        if self.due {
            return false;
        }
        if self.last < now {
            let during_call = self.quiet.after_call;
            if during_call {
                self.quiet = Quiet::at(now, ClosedBy::Busy);
            }
            return during_call && self.reached;
        }
        // What came at this very instant came after the end, and has not found the lane busy.
        if !self.own_quiet {
            let settings = self.settings.as_deref().unwrap_or(current);
            let found = if alone && self.messages == 1 {
                Found::Idle
            } else {
                Found::Waiting
            };
            (self.quiet, self.span) = Quiet::of(now, None, found, settings);
        }
        self.earlier
            .is_some_and(|(quiet, reached)| quiet.after_call && reached)
    }

    fn has_timer(&self) -> bool {
        let timed = self.quiet.by == ClosedBy::Quiet && !self.quiet.after_call;
        timed && !self.span.is_zero() && self.span != Duration::MAX
    }
}

impl Newcomer<'_> {
    /// Whether something other than its size keeps `next` from sharing a batch with this one.
    pub(crate) fn is_cut_from(&self, next: &Newcomer<'_>, max_gap: Option<Duration>) -> bool {
        let gap = next.at.micros_since(self.at);
        next.standalone
            || self.standalone
            || next.batch_key != self.batch_key
            || max_gap.is_some_and(|max_gap| gap > micros(max_gap))
    }
}

impl Quiet {
    /// After a message that came at `at`; and the period itself.
    fn of(at: Time, own: Option<Duration>, found: Found, settings: &Settings) -> (Self, Duration) {
        let span = own.unwrap_or(settings.quiet);
        match found {
            Found::Idle if own.is_none() && !settings.quiet_when_idle => {
                (Self::at(at, ClosedBy::Idle), Duration::ZERO)
            }
            Found::Asking if own.is_none() && !settings.quiet_when_busy => {
                (Self::at(at, ClosedBy::Busy), Duration::ZERO)
            }
            Found::Busy if own.is_none() && !settings.quiet_when_busy => {
                let after_call = true;
                let by = ClosedBy::Busy;
                let at = Time::NEVER;
                (Self { at, by, after_call }, span)
            }
            _ => (Self::at(at.after(span), ClosedBy::Quiet), span),
        }
    }

    fn at(at: Time, by: ClosedBy) -> Self {
        let after_call = false;
        Self { at, by, after_call }
    }
}
