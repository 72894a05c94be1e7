//! What a simulation does, as values that print as the code that makes them.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use chinwag_engine::{Lanes, Settings, Size};

use super::{Micros, NEVER, Wish, micros};

/// A small queue and how it is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    /// Its sums are checked after every step, which drains the inboxes; otherwise after polls.
    pub(crate) watched: bool,
    pub(crate) ending: Ending,
}

/// How a run comes to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Pauses end, time goes on, everything is handled.
    Drain,
    /// The queue is closed, what only a pause holds is abandoned.
    Close,
}

/// What happens when.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) at: Micros,
    pub(crate) op: Op,
}

/// One call of the engine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Push(Push),
    Poll,
    Next,
    /// Ends one of the running calls, counted from the oldest, modulo their number.
    Settle {
        call: usize,
        well: bool,
    },
    AbandonCall {
        call: usize,
    },
    /// Ends a call again, counted from the last that ended.
    SettleAgain {
        call: usize,
    },
    Pause {
        group: Option<String>,
        span: Option<Micros>,
    },
    Resume {
        group: Option<String>,
    },
    Clear {
        group: Option<String>,
    },
    Flush {
        group: String,
        sender: Option<String>,
    },
    Close,
    Abandon,
    /// Everything that can be asked about a group and the queue.
    Look {
        group: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Push {
    pub(crate) group: String,
    pub(crate) sender: String,
    pub(crate) wish: Wish,
}

pub(crate) fn at(at: Micros, op: impl Into<Op>) -> Step {
    Step { at, op: op.into() }
}

pub(crate) fn push(group: &str, sender: &str) -> Push {
    Push {
        group: group.into(),
        sender: sender.into(),
        wish: Wish::default(),
    }
}

impl Push {
    pub(crate) fn id(mut self, id: &str) -> Self {
        self.wish.id = Some(id.into());
        self
    }

    pub(crate) fn size(mut self, size: f64) -> Self {
        self.wish.size = Size::from_f64(size).expect("a size");
        self
    }

    pub(crate) fn key(mut self, key: &str) -> Self {
        self.wish.key = Some(key.into());
        self
    }

    pub(crate) fn quiet(mut self, quiet: Micros) -> Self {
        self.wish.quiet = Some(quiet);
        self
    }

    pub(crate) fn flush(mut self) -> Self {
        self.wish.flush = true;
        self
    }

    pub(crate) fn standalone(mut self) -> Self {
        self.wish.standalone = true;
        self
    }
}

impl From<Push> for Op {
    fn from(push: Push) -> Self {
        Self::Push(push)
    }
}

/// A span of so many microseconds; [`NEVER`] has none.
pub(crate) fn us(span: Micros) -> Duration {
    if span == NEVER {
        Duration::MAX
    } else {
        Duration::from_micros(span)
    }
}

/// A number as code.
struct Span(Micros);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == NEVER {
            write!(f, "NEVER")
        } else {
            write!(f, "{}", self.0)
        }
    }
}

impl Display for World {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (settings, default) = (&self.settings, &Settings::default());
        writeln!(f, "World {{")?;
        writeln!(f, "    settings: Settings {{")?;
        if settings.lanes != default.lanes {
            writeln!(f, "        lanes: Lanes::{:?},", settings.lanes)?;
        }
        for (name, span, usual) in spans(settings, default) {
            if span != usual {
                writeln!(f, "        {name}: us({}),", Span(micros(span)))?;
            }
        }
        if let Some(size) = settings.max_batch {
            writeln!(f, "        max_batch: Size::from_f64({:?}),", size.as_f64())?;
        }
        if let Some(gap) = settings.max_gap {
            writeln!(f, "        max_gap: Some(us({})),", Span(micros(gap)))?;
        }
        if settings.min_batch != default.min_batch {
            writeln!(f, "        min_batch: {},", settings.min_batch)?;
        }
        for (name, flag) in [
            ("quiet_when_idle", settings.quiet_when_idle),
            ("quiet_when_busy", settings.quiet_when_busy),
        ] {
            if !flag {
                writeln!(f, "        {name}: false,")?;
            }
        }
        if settings.max_concurrent_per_group != default.max_concurrent_per_group {
            let most = settings.max_concurrent_per_group;
            writeln!(f, "        max_concurrent_per_group: {most},")?;
        }
        for (name, most) in [
            ("max_concurrent", settings.max_concurrent),
            ("capacity_per_group", settings.capacity_per_group),
            ("capacity", settings.capacity),
        ] {
            if let Some(most) = most {
                writeln!(f, "        {name}: Some({most}),")?;
            }
        }
        if settings.dedup_limit != default.dedup_limit {
            writeln!(f, "        dedup_limit: {},", settings.dedup_limit)?;
        }
        writeln!(f, "        ..Settings::default()")?;
        writeln!(f, "    }},")?;
        writeln!(f, "    watched: {},", self.watched)?;
        writeln!(f, "    ending: Ending::{:?},", self.ending)?;
        write!(f, "}}")
    }
}

fn spans(settings: &Settings, default: &Settings) -> [(&'static str, Duration, Duration); 6] {
    [
        ("back_to_back", settings.back_to_back, default.back_to_back),
        ("burst", settings.burst, default.burst),
        ("quiet", settings.quiet, default.quiet),
        ("max_wait", settings.max_wait, default.max_wait),
        ("dedup", settings.dedup, default.dedup),
        ("idle_group", settings.idle_group, default.idle_group),
    ]
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "at({}, {})", Span(self.at), self.op)
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push(push) => write!(f, "{push}"),
            Self::Pause { group, span } => {
                let span = span.map_or("None".into(), |span| format!("Some({})", Span(span)));
                write!(
                    f,
                    "Op::Pause {{ group: {}, span: {span} }}",
                    Word(group.as_deref())
                )
            }
            Self::Resume { group } => {
                write!(f, "Op::Resume {{ group: {} }}", Word(group.as_deref()))
            }
            Self::Clear { group } => write!(f, "Op::Clear {{ group: {} }}", Word(group.as_deref())),
            Self::Flush { group, sender } => {
                let sender = Word(sender.as_deref());
                write!(
                    f,
                    "Op::Flush {{ group: {group:?}.into(), sender: {sender} }}"
                )
            }
            Self::Look { group } => write!(f, "Op::Look {{ group: {group:?}.into() }}"),
            plain => write!(f, "Op::{plain:?}"),
        }
    }
}

/// An optional string as code.
struct Word<'a>(Option<&'a str>);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(word) => write!(f, "Some({word:?}.into())"),
            None => write!(f, "None"),
        }
    }
}

impl Display for Push {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "push({:?}, {:?})", self.group, self.sender)?;
        let wish = &self.wish;
        if let Some(id) = &wish.id {
            write!(f, ".id({id:?})")?;
        }
        if wish.size != Size::ONE {
            write!(f, ".size({:?})", wish.size.as_f64())?;
        }
        if let Some(key) = &wish.key {
            write!(f, ".key({key:?})")?;
        }
        if let Some(quiet) = wish.quiet {
            write!(f, ".quiet({})", Span(quiet))?;
        }
        if wish.flush {
            write!(f, ".flush()")?;
        }
        if wish.standalone {
            write!(f, ".standalone()")?;
        }
        Ok(())
    }
}

/// The code of a test that does all that.
pub(crate) fn as_code(world: &World, steps: &[Step]) -> String {
    let mut code = format!("let world = {world};\nlet steps = [\n");
    for step in steps {
        code.extend(["    ", &step.to_string(), ",\n"]);
    }
    code + "];\nrun(&world, &steps, None).unwrap();\n"
}

/// The same world with one setting less, in every way there is.
pub(crate) fn plainer(world: &World) -> Vec<World> {
    let default = Settings::default();
    let mut worlds = Vec::new();
    let mut with = |change: &dyn Fn(&mut Settings)| {
        let mut plain = world.clone();
        change(&mut plain.settings);
        if plain != *world {
            worlds.push(plain);
        }
    };
    with(&|settings| settings.lanes = Lanes::Sender);
    with(&|settings| settings.back_to_back = default.back_to_back);
    with(&|settings| settings.burst = default.burst);
    with(&|settings| settings.quiet = default.quiet);
    with(&|settings| settings.max_wait = default.max_wait);
    with(&|settings| settings.max_batch = None);
    with(&|settings| settings.min_batch = 1);
    with(&|settings| settings.max_gap = None);
    with(&|settings| settings.quiet_when_idle = true);
    with(&|settings| settings.quiet_when_busy = true);
    with(&|settings| settings.max_concurrent_per_group = default.max_concurrent_per_group);
    with(&|settings| settings.max_concurrent = None);
    with(&|settings| settings.capacity_per_group = None);
    with(&|settings| settings.capacity = None);
    with(&|settings| settings.dedup = default.dedup);
    with(&|settings| settings.dedup_limit = default.dedup_limit);
    with(&|settings| settings.idle_group = default.idle_group);
    worlds
}
