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
            due: false,
        };
        window.join(with, found, settings);
        window
    }

    /// Takes in a message that fits.
    pub(crate) fn join(&mut self, with: &Newcomer<'_>, found: Found, settings: &Settings) {
        self.last = with.at;
        self.messages += 1;
        self.size = self.size.plus(with.size);
        self.reached |= self.messages >= settings.min_batch;
        self.quiet = match (with.quiet, found) {
            (Some(own), _) => Quiet::At(with.at.after(own), ClosedBy::Quiet),
            (None, Found::Idle) if !settings.quiet_when_idle => Quiet::At(with.at, ClosedBy::Idle),
            (None, Found::Busy) if !settings.quiet_when_busy => Quiet::AfterCall,
            _ => Quiet::At(with.at.after(settings.quiet), ClosedBy::Quiet),
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

    /// The call has ended during which the last message came (rule W5). Returns whether that makes
    /// the window due. A message that came at that very instant came after the end (rule T1): the
    /// lane it found was not busy.
    pub(crate) fn call_ended(&mut self, now: Time, settings: &Settings) -> bool {
        if self.due || !matches!(self.quiet, Quiet::AfterCall) {
            return false;
        }
        self.quiet = if self.first < now {
            Quiet::At(now, ClosedBy::Busy)
        } else if settings.quiet_when_idle {
            Quiet::At(now.after(settings.quiet), ClosedBy::Quiet)
        } else {
            Quiet::At(now, ClosedBy::Idle)
        };
        self.first < now && self.reached
    }
}
