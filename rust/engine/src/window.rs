//! When waiting messages become a batch (section W).
//!
//! A window opens with its first message. It grows until it is cut or full. It becomes *due*: after
//! a quiet period, after its longest wait, at once when it cannot grow any more or is flushed. Due is
//! for good: a due window takes in what fits until it starts, and nothing makes it wait again.
//! Only the last window of a lane can still be open; those before it have been cut, so they are due.

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
}

impl ClosedBy {
    /// All of them, in the order of [`crate::Metrics::closed_by`].
    pub const ALL: [Self; 8] = [
        Self::Quiet,
        Self::MaxWait,
        Self::Size,
        Self::Cut,
        Self::Flush,
        Self::Idle,
        Self::Busy,
        Self::Drain,
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
}

/// The last window of a lane.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    first: Time,
    last: Time,
    messages: u32,
    size: Size,
    quiet: Quiet,
    /// `min_batch` was reached once.
    reached: bool,
    /// Both as they were before the instant of the last message: a call that ends at that instant
    /// ended before the message came (rule T1).
    earlier: Option<(Quiet, bool)>,
    /// The last message has a quiet period of its own.
    own_quiet: bool,
    due: bool,
}

/// When the quiet period of the last message is over: (a) of rule W3.
#[derive(Clone, Copy, Debug)]
enum Quiet {
    At(Time, ClosedBy),
    /// When the call that runs has ended.
    AfterCall,
}

impl Window {
    /// A window with its first message.
    pub(crate) fn open(with: &Newcomer<'_>, found: Found, settings: &Settings) -> Self {
        let mut window = Self {
            first: with.at,
            last: with.at,
            messages: 0,
            size: Size::ZERO,
            quiet: Quiet::AfterCall,
            reached: false,
            earlier: None,
            own_quiet: false,
            due: false,
        };
        window.join(with, found, settings);
        window
    }

    /// Takes in a message that fits.
    pub(crate) fn join(&mut self, with: &Newcomer<'_>, found: Found, settings: &Settings) {
        if with.at > self.last {
            self.earlier = Some((self.quiet, self.reached));
        }
        self.last = with.at;
        self.messages += 1;
        self.size = self.size.plus(with.size);
        self.reached |= self.messages >= settings.min_batch;
        self.own_quiet = with.quiet.is_some();
        self.quiet = match with.quiet {
            Some(own) => Quiet::At(with.at.after(own), ClosedBy::Quiet),
            None => Quiet::after(with.at, found, settings),
        };
    }

    /// Why `next` cannot join what waits here; `tail` is the last message that does.
    pub(crate) fn cut_by(
        &self,
        next: &Newcomer<'_>,
        tail_key: Option<&str>,
        tail_standalone: bool,
        settings: &Settings,
    ) -> Option<ClosedBy> {
        let gap = next.at.micros_since(self.last);
        if next.standalone
            || tail_standalone
            || next.batch_key != tail_key
            || settings
                .max_gap
                .is_some_and(|max_gap| gap > micros(max_gap))
        {
            return Some(ClosedBy::Cut);
        }
        let fits = settings
            .max_batch
            .is_none_or(|max_batch| self.size.plus(next.size) <= max_batch);
        (!fits).then_some(ClosedBy::Size)
    }

    /// Whether no further message can fit.
    pub(crate) fn is_full(&self, settings: &Settings) -> bool {
        settings
            .max_batch
            .is_some_and(|max_batch| self.size >= max_batch)
    }

    /// When it becomes due by itself, and why; [`Time::NEVER`] when it is due already.
    pub(crate) fn due_at(&self, settings: &Settings) -> (Time, ClosedBy) {
        if self.due {
            return (Time::NEVER, ClosedBy::Quiet);
        }
        let longest = self.first.after(settings.max_wait);
        match self.quiet {
            Quiet::At(at, by) if self.reached && at <= longest => (at, by),
            _ => (longest, ClosedBy::MaxWait),
        }
    }

    /// From now on it waits for nothing but its start.
    pub(crate) fn close(&mut self) {
        self.due = true;
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    pub(crate) fn messages(&self) -> u32 {
        self.messages
    }

    /// The lane's call has ended (rule W5); `alone` says that no other window waits in the lane.
    /// Returns whether that makes this one due.
    pub(crate) fn call_ended(&mut self, now: Time, alone: bool, settings: &Settings) -> bool {
        if self.due {
            return false;
        }
        if self.last < now {
            let during_call = matches!(self.quiet, Quiet::AfterCall);
            if during_call {
                self.quiet = Quiet::At(now, ClosedBy::Busy);
            }
            return during_call && self.reached;
        }
        // What came at this very instant came after the end, and has not found the lane busy.
        if !self.own_quiet {
            let found = if alone && self.messages == 1 {
                Found::Idle
            } else {
                Found::Waiting
            };
            self.quiet = Quiet::after(now, found, settings);
        }
        matches!(self.earlier, Some((Quiet::AfterCall, true)))
    }
}

impl Quiet {
    /// After a message without a quiet period of its own.
    fn after(at: Time, found: Found, settings: &Settings) -> Self {
        match found {
            Found::Idle if !settings.quiet_when_idle => Self::At(at, ClosedBy::Idle),
            Found::Busy if !settings.quiet_when_busy => Self::AfterCall,
            _ => Self::At(at.after(settings.quiet), ClosedBy::Quiet),
        }
    }
}
