//! What a simulation does, as values that print as the code that makes them.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use chinwag_engine::{
    Band, FairBy, Keep, Lanes, Overflow, Points, Profile, Rate, Settings, Size, SizeBy, Strategy,
    Weight,
};

use super::{Micros, NEVER, Wish, micros};

/// A small queue and how it is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct World {
    /// The queue's own, and others that a group may be given.
    pub(crate) profiles: Vec<Profile>,
    /// Its sums are checked after every step, which drains the inboxes; otherwise after polls.
    pub(crate) watched: bool,
    pub(crate) ending: Ending,
}

impl World {
    /// The settings of the whole queue.
    pub(crate) fn own(&self) -> &Settings {
        &self.profiles[0].settings
    }

    /// A full group evicts what is pushed, and the whole queue may be full as well.
    pub(crate) fn drops_newest_of_all(&self) -> bool {
        let mut all = self.all();
        self.own().capacity.is_some() && all.any(|it| it.overflow == Overflow::DropNewest)
    }

    /// All that may be in force somewhere.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Settings> {
        self.profiles.iter().flat_map(all)
    }
}

/// All settings of a profile.
pub(crate) fn all(profile: &Profile) -> impl Iterator<Item = &Settings> {
    let bands = profile.bands.iter().map(|band| &*band.settings);
    [&*profile.settings].into_iter().chain(bands)
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
    Withdraw {
        group: String,
        id: String,
    },
    Edit {
        group: String,
        id: String,
    },
    Typing {
        group: String,
        sender: String,
        on: bool,
    },
    SetMembers {
        group: String,
        members: u32,
    },
    SetSender {
        group: String,
        sender: String,
        weight: Points,
    },
    /// Gives a group one of the world's profiles.
    Configure {
        group: String,
        profile: usize,
    },
    /// Somebody waits for room.
    QueueUp {
        group: String,
    },
    /// One of those with a place pushes to its group, counted from the oldest, modulo their number.
    PushWith {
        ticket: usize,
        push: Push,
    },
    /// One of those who wait or have a place goes away.
    Leave {
        ticket: usize,
    },
    MakeRoom,
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

    pub(crate) fn at(mut self, at: Micros) -> Self {
        self.wish.at = Some(at);
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

    pub(crate) fn real_time(mut self) -> Self {
        self.wish.real_time = true;
        self
    }

    pub(crate) fn rank(mut self, rank: f64) -> Self {
        self.wish.rank = Points::from_f64(rank);
        self
    }

    pub(crate) fn context(mut self) -> Self {
        self.wish.context = true;
        self
    }

    pub(crate) fn bypass(mut self) -> Self {
        self.wish.bypass = true;
        self
    }

    pub(crate) fn ttl(mut self, ttl: Micros) -> Self {
        self.wish.ttl = Some(ttl);
        self
    }

    pub(crate) fn delay(mut self, delay: Micros) -> Self {
        self.wish.delay = Some(delay);
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

/// A value as the code that makes it.
trait Code {
    fn code(&self) -> String;
}

impl Code for Micros {
    fn code(&self) -> String {
        match *self {
            NEVER => "NEVER".into(),
            number => number.to_string(),
        }
    }
}

impl Code for Duration {
    fn code(&self) -> String {
        format!("us({})", micros(*self).code())
    }
}

impl Code for Size {
    fn code(&self) -> String {
        format!("Size::from_f64({:?}).unwrap()", self.as_f64())
    }
}

impl Code for Points {
    fn code(&self) -> String {
        format!("Points::from_f64({:?})", self.as_f64())
    }
}

impl Code for Weight {
    fn code(&self) -> String {
        format!("Weight::from_f64({:?}).unwrap()", self.as_f64())
    }
}

impl Code for Rate {
    fn code(&self) -> String {
        let (each, burst) = (self.per_second_millionths(), self.burst_millionths());
        let (each, burst) = (each as f64 / 1e6, burst as f64 / 1e6);
        format!("Rate::new({each:?}, {burst:?}).unwrap()")
    }
}

impl Code for str {
    fn code(&self) -> String {
        format!("{self:?}.into()")
    }
}

impl Code for String {
    fn code(&self) -> String {
        self.as_str().code()
    }
}

impl<T: Code> Code for Option<T> {
    fn code(&self) -> String {
        let inner = self.as_ref().map(Code::code);
        inner.map_or("None".into(), |inner| format!("Some({inner})"))
    }
}

macro_rules! plain {
    ($($type:ty: $prefix:literal,)*) => {$(
        impl Code for $type {
            fn code(&self) -> String {
                format!(concat!($prefix, "{:?}"), self)
            }
        }
    )*};
}

plain! {
    bool: "",
    u32: "",
    usize: "",
    f64: "",
    Lanes: "Lanes::",
    Keep: "Keep::",
    Overflow: "Overflow::",
    FairBy: "FairBy::",
    SizeBy: "SizeBy::",
    Strategy: "Strategy::",
}

/// What is done with every setting alike.
macro_rules! settings {
    ($($name:ident,)*) => {
        /// The same settings with one less, in every way there is.
        fn plainer_settings(settings: &Settings) -> Vec<Settings> {
            let usual = Settings {
                lanes: settings.lanes,
                max_attempts: settings.max_attempts,
                ..Settings::default()
            };
            vec![$(Settings { $name: usual.$name, ..settings.clone() },)*]
        }

        impl Code for Settings {
            #[allow(clippy::float_cmp)] // a setting is as it was drawn, or is not
            fn code(&self) -> String {
                let usual = Self::default();
                let mut code = String::from("Settings { ");
                $(if self.$name != usual.$name {
                    code += concat!(stringify!($name), ": ");
                    code += &self.$name.code();
                    code += ", ";
                })*
                code + "..Settings::default() }"
            }
        }
    };
}

settings! {
    lanes,
    back_to_back,
    burst,
    quiet,
    max_wait,
    max_batch,
    min_batch,
    max_gap,
    keep,
    quiet_when_idle,
    quiet_when_busy,
    typing_expires,
    real_time,
    back_to_back_points,
    burst_points,
    sender,
    aging,
    weight,
    max_concurrent_per_group,
    rate_per_group,
    capacity_per_group,
    overflow,
    dedup,
    dedup_limit,
    ttl,
    context_limit,
    context_ttl,
    max_concurrent,
    rate,
    capacity,
    max_bypass,
    fair_by,
    size_by,
    size_window,
    idle_group,
    max_attempts,
}

impl Display for World {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "World {{")?;
        writeln!(f, "    profiles: vec![")?;
        for profile in &self.profiles {
            writeln!(f, "        Profile {{")?;
            writeln!(
                f,
                "            settings: Arc::new({}),",
                profile.settings.code()
            )?;
            writeln!(f, "            strategy: {},", profile.strategy.code())?;
            writeln!(f, "            bands: vec![")?;
            for band in &profile.bands {
                let (from, strategy) = (band.from, band.strategy.code());
                let settings = band.settings.code();
                writeln!(
                    f,
                    "                Band {{ from: {from}, strategy: {strategy}, settings: Arc::new({settings}) }},"
                )?;
            }
            writeln!(f, "            ],")?;
            writeln!(f, "        }},")?;
        }
        writeln!(f, "    ],")?;
        writeln!(f, "    watched: {},", self.watched)?;
        writeln!(f, "    ending: Ending::{:?},", self.ending)?;
        write!(f, "}}")
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "at({}, {})", self.at.code(), self.op)
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let fields: Vec<(&str, String)> = match self {
            Self::Push(push) => return write!(f, "{push}"),
            Self::Pause { group, span } => vec![("group", group.code()), ("span", span.code())],
            Self::Resume { group } | Self::Clear { group } => vec![("group", group.code())],
            Self::Look { group } | Self::QueueUp { group } => vec![("group", group.code())],
            Self::Flush { group, sender } => {
                vec![("group", group.code()), ("sender", sender.code())]
            }
            Self::Withdraw { group, id } | Self::Edit { group, id } => {
                vec![("group", group.code()), ("id", id.code())]
            }
            Self::Typing { group, sender, on } => vec![
                ("group", group.code()),
                ("sender", sender.code()),
                ("on", on.code()),
            ],
            Self::SetMembers { group, members } => {
                vec![("group", group.code()), ("members", members.code())]
            }
            Self::SetSender {
                group,
                sender,
                weight,
            } => vec![
                ("group", group.code()),
                ("sender", sender.code()),
                ("weight", weight.code()),
            ],
            Self::Configure { group, profile } => {
                vec![("group", group.code()), ("profile", profile.code())]
            }
            Self::PushWith { ticket, push } => {
                vec![("ticket", ticket.code()), ("push", push.to_string())]
            }
            Self::Poll
            | Self::Next
            | Self::Settle { .. }
            | Self::AbandonCall { .. }
            | Self::SettleAgain { .. }
            | Self::Leave { .. }
            | Self::MakeRoom
            | Self::Close
            | Self::Abandon => return write!(f, "Op::{self:?}"),
        };
        let debug = format!("{self:?}");
        let name = debug.split(' ').next().unwrap_or_default();
        let fields: Vec<_> = fields
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        write!(f, "Op::{name} {{ {} }}", fields.join(", "))
    }
}

impl Display for Push {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "push({:?}, {:?})", self.group, self.sender)?;
        let wish = &self.wish;
        if let Some(id) = &wish.id {
            write!(f, ".id({id:?})")?;
        }
        for (name, span) in [
            ("at", wish.at),
            ("quiet", wish.quiet),
            ("ttl", wish.ttl),
            ("delay", wish.delay),
        ] {
            if let Some(span) = span {
                write!(f, ".{name}({})", span.code())?;
            }
        }
        if wish.size != Size::ONE {
            write!(f, ".size({:?})", wish.size.as_f64())?;
        }
        if wish.rank != Points::default() {
            write!(f, ".rank({:?})", wish.rank.as_f64())?;
        }
        if let Some(key) = &wish.key {
            write!(f, ".key({key:?})")?;
        }
        for (name, flag) in [
            ("flush", wish.flush),
            ("standalone", wish.standalone),
            ("real_time", wish.real_time),
            ("context", wish.context),
            ("bypass", wish.bypass),
        ] {
            if flag {
                write!(f, ".{name}()")?;
            }
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

/// The same world with one profile, band or setting less, in every way there is.
pub(crate) fn plainer(world: &World) -> Vec<World> {
    let mut worlds = Vec::new();
    let mut with = |change: &dyn Fn(&mut World)| {
        let mut plain = world.clone();
        change(&mut plain);
        if plain != *world {
            worlds.push(plain);
        }
    };
    if world.profiles.len() > 1 {
        with(&|world| world.profiles.truncate(1));
        with(&|world| drop(world.profiles.pop()));
    }
    for at in 0..world.profiles.len() {
        let profile = &world.profiles[at];
        with(&|world| world.profiles[at].bands.clear());
        with(&|world| world.profiles[at].strategy = Strategy::RoundRobin);
        // All bands of a profile have the same lanes.
        with(&|world| {
            let profile = &mut world.profiles[at];
            Arc::make_mut(&mut profile.settings).lanes = Lanes::Sender;
            for band in &mut profile.bands {
                Arc::make_mut(&mut band.settings).lanes = Lanes::Sender;
            }
        });
        for settings in plainer_settings(&profile.settings) {
            with(&|world| world.profiles[at].settings = Arc::new(settings.clone()));
        }
        for band in 0..profile.bands.len() {
            let Band { settings, .. } = &profile.bands[band];
            with(&|world| drop(world.profiles[at].bands.remove(band)));
            for settings in plainer_settings(settings) {
                with(&|world| world.profiles[at].bands[band].settings = Arc::new(settings.clone()));
            }
        }
    }
    worlds
}
