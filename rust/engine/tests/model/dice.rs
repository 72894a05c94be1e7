//! Worlds and steps, drawn.

use std::sync::Arc;

use chinwag_engine::{
    Band, FairBy, Keep, Lanes, Overflow, Points, Profile, Rate, Settings, Size, SizeBy, Strategy,
    Weight,
};

use super::script::{Ending, Op, Push, World, all, push, us};
use super::{Micros, NEVER};

/// A small generator of even numbers (splitmix64), so that a seed means the same everywhere.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn maybe<T>(&mut self, n: u64, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(n).then(|| draw(self))
    }

    pub(crate) fn world(&mut self) -> World {
        let watched = !self.one_in(3);
        let lanes = self.pick(&[
            Lanes::Sender,
            Lanes::Sender,
            Lanes::Sender,
            Lanes::Group,
            Lanes::Message,
        ]);
        let mut own = self.profile(lanes);
        // The model hears of a group that was forgotten by the event.
        let idle_group = self.pick(&[600_000_000, NEVER, 40]);
        let settings = Arc::make_mut(&mut own.settings);
        settings.idle_group = us(if watched { idle_group } else { NEVER });
        let mut profiles = vec![own];
        if self.one_in(3) {
            for _ in 0..=self.below(2) {
                let lanes = if self.one_in(4) { Lanes::Sender } else { lanes };
                profiles.push(self.profile(lanes));
            }
        }
        World {
            profiles,
            watched,
            ending: self.pick(&[Ending::Drain, Ending::Drain, Ending::Close]),
        }
    }

    pub(crate) fn profile(&mut self, lanes: Lanes) -> Profile {
        let settings = Arc::new(self.settings(lanes));
        let strategy = self.pick(&Strategy::ALL);
        let mut bands = Vec::new();
        if self.one_in(3) {
            for from in 1..=5 {
                if self.one_in(2) {
                    let other = self.one_in(2);
                    bands.push(Band {
                        from,
                        strategy: self.pick(&Strategy::ALL),
                        settings: if other {
                            let mut it = self.settings(lanes);
                            // As the configuration has it: ids know no bands.
                            it.dedup = settings.dedup;
                            it.dedup_limit = settings.dedup_limit;
                            Arc::new(it)
                        } else {
                            settings.clone()
                        },
                    });
                }
            }
        }
        Profile {
            settings,
            strategy,
            bands,
        }
    }

    pub(crate) fn settings(&mut self, lanes: Lanes) -> Settings {
        let quiet = self.pick(&[0, 0, 1, 2, 3, 5, 9, NEVER]);
        let min_batch = self.pick(&[1, 1, 1, 2, 3]);
        let endless = if quiet != NEVER && min_batch == 1 {
            NEVER
        } else {
            30
        };
        let sizes = [1.0, 1.5, 2.0, 3.0, 4.25, 0.999_999];
        let settings = Settings {
            lanes,
            back_to_back: us(self.pick(&[0, 1, 3, 5])),
            burst: us(self.pick(&[2, 5, 8, 12])),
            quiet: us(quiet),
            max_wait: us(self.pick(&[0, 2, 6, 10, 20, endless])),
            max_batch: self
                .maybe(2, |dice| Size::from_f64(dice.pick(&sizes)).unwrap())
                .filter(|size| f64::from(min_batch) <= size.as_f64().max(1.0)),
            min_batch,
            max_gap: self.maybe(4, |dice| us(dice.pick(&[0, 1, 2, 4, 8]))),
            quiet_when_idle: !self.one_in(3),
            quiet_when_busy: !self.one_in(3),
            max_concurrent_per_group: self.pick(&[1, 1, 2, 3]),
            max_concurrent: self.maybe(2, |dice| dice.pick(&[1, 2, 3])),
            capacity_per_group: self.maybe(3, |dice| dice.pick(&[1, 2, 4])),
            capacity: self.maybe(3, |dice| dice.pick(&[1, 3, 6])),
            dedup: us(self.pick(&[0, 0, 4, 20, 100, NEVER])),
            dedup_limit: self.pick(&[1, 2, 3, 10_000]),
            size_window: us(self.pick(&[3, 10, 100, 600_000_000])),
            idle_group: us(NEVER),
            max_attempts: 1,
            ..Settings::default()
        };
        let settings = self.beside(settings);
        self.ordered(settings)
    }

    /// What leaves a queue otherwise than by a call.
    pub(crate) fn beside(&mut self, plain: Settings) -> Settings {
        Settings {
            keep: if plain.lanes != Lanes::Message && self.one_in(5) {
                Keep::Latest
            } else {
                Keep::All
            },
            typing_expires: us(self.pick(&[1, 3, 6, 20])),
            overflow: self.pick(&[
                Overflow::Refuse,
                Overflow::Refuse,
                Overflow::DropNewest,
                Overflow::DropOldest,
            ]),
            ttl: self.maybe(6, |dice| us(dice.pick(&[0, 1, 3, 8, 20]))),
            context_limit: self.pick(&[50, 50, 0, 1, 2]),
            context_ttl: us(self.pick(&[3_600_000_000, 0, 4, 10, NEVER])),
            max_bypass: self.pick(&[64, 1, 2]),
            ..plain
        }
    }

    /// Who goes first.
    pub(crate) fn ordered(&mut self, plain: Settings) -> Settings {
        let rate = |dice: &mut Self| {
            let each = dice.pick(&[50_000.0, 250_000.0, 333_333.3, 1e6]);
            Rate::new(each, dice.pick(&[1.0, 1.0, 1.5, 3.0])).unwrap()
        };
        Settings {
            real_time: Points::from_f64(self.pick(&[0.5, 0.5, 2.0])),
            back_to_back_points: Points::from_f64(self.pick(&[0.3, 0.3, 0.0, -1.0])),
            sender: self.pick(&[1.0, 1.0, 0.3, 2.0]),
            aging: Points::from_f64(self.pick(&[0.1, 1e5, 333_333.333_333, 1e6])),
            weight: Weight::from_f64(self.pick(&[1.0, 1.0, 0.5, 3.0, 0.001])).unwrap(),
            rate_per_group: self.maybe(6, rate),
            rate: self.maybe(8, rate),
            fair_by: self.pick(&[FairBy::Calls, FairBy::Time]),
            size_by: self.pick(&[SizeBy::Active, SizeBy::Active, SizeBy::Members]),
            ..plain
        }
    }

    /// Now, soon, around the next timer, or much later.
    pub(crate) fn later(&mut self, now: Micros, wake_at: Micros) -> Micros {
        let timer = if wake_at == NEVER { now } else { wake_at };
        match self.below(16) {
            0..8 => now,
            8..11 => now + 1 + self.below(3),
            11 => now.max(timer.saturating_sub(1)),
            12 | 13 => now.max(timer),
            14 => now.max(timer) + 1,
            15 if self.one_in(2) => now.saturating_sub(1 + self.below(4)),
            15 if self.one_in(8) => now + self.below(70_000_000),
            15 if self.one_in(3) => now + self.below(20_000),
            _ => now + self.below(100),
        }
    }

    pub(crate) fn op(&mut self, world: &World, groups: u64, senders: u64, labels: u64) -> Op {
        let group = self.group(groups);
        match self.below(120) {
            0..42 => self.push(world, &group, senders).into(),
            42..60 => Op::Poll,
            60..66 => Op::Next,
            66..84 => Op::Settle {
                call: self.below(4) as usize,
                well: !self.one_in(4),
            },
            84 => Op::AbandonCall {
                call: self.below(4) as usize,
            },
            85 => Op::SettleAgain {
                call: self.below(6) as usize,
            },
            86..89 => Op::Pause {
                group: self.maybe(2, |_| group),
                span: self.maybe(2, |dice| dice.below(12)),
            },
            89..92 => Op::Resume {
                group: self.maybe(2, |_| group),
            },
            92 => Op::Clear {
                group: (!self.one_in(4)).then_some(group),
            },
            93..96 => {
                let sender = self.maybe(2, |dice| dice.sender(senders));
                Op::Flush { group, sender }
            }
            96 if self.one_in(8) => Op::Abandon,
            97..100 => Op::Withdraw {
                id: self.id(labels),
                group,
            },
            100 => Op::Edit {
                id: self.id(labels),
                group,
            },
            101..104 => Op::Typing {
                sender: self.sender(senders),
                on: !self.one_in(3),
                group,
            },
            104 => Op::SetMembers {
                members: self.below(7) as u32,
                group,
            },
            105 | 106 => Op::SetSender {
                sender: self.sender(senders),
                weight: Points::from_f64(self.pick(&[-1.5, 0.0, 0.3, 1.0, 2.0, 1.333_333])),
                group,
            },
            107 | 108 if world.profiles.len() > 1 => Op::Configure {
                profile: self.below(world.profiles.len() as u64) as usize,
                group,
            },
            109 | 110 => Op::QueueUp { group },
            111..115 => Op::PushWith {
                ticket: self.below(4) as usize,
                push: self.push(world, &group, senders),
            },
            115 => Op::Leave {
                ticket: self.below(4) as usize,
            },
            116 => Op::MakeRoom,
            _ => Op::Look { group },
        }
    }

    pub(crate) fn push(&mut self, world: &World, group: &str, senders: u64) -> Push {
        let sender = self.sender(senders);
        let mut push = push(group, &sender);
        if self.one_in(3) {
            push = push.id(["i0", "i1", "i2", "i3"][self.below(4) as usize]);
        }
        if self.one_in(3) {
            push = push.size(self.pick(&[0.25, 0.5, 0.333_333, 1.5, 2.5, 0.000_001]));
        }
        if self.one_in(6) {
            push = push.key(["k", "l"][self.below(2) as usize]);
        }
        if self.one_in(6) {
            let ends = |it: &Settings| !it.max_wait.is_zero() && it.max_wait != us(NEVER);
            let endless = if world.all().all(ends) { NEVER } else { 7 };
            push = push.quiet(self.pick(&[0, 1, 2, 4, 8, endless]));
        }
        let at_once = world.all().all(|it| it.overflow != Overflow::DropOldest);
        if at_once && self.one_in(16) {
            push = push.flush();
        }
        if at_once && self.one_in(20) {
            push = push.standalone();
        }
        if self.one_in(6) {
            push = push.real_time();
        }
        if self.one_in(5) {
            push = push.rank(self.pick(&[-2.0, 0.25, 1.0, 2.0, 3.5]));
        }
        if world.own().keep == Keep::Latest && self.one_in(2) {
            push = push.at(self.below(20));
        }
        if self.one_in(8) {
            push = push.ttl(self.pick(&[0, 1, 2, 5, 12]));
        }
        match self.below(16) {
            0 | 1 => push.context(),
            2 => push.bypass(),
            3 | 4 => push.delay(self.pick(&[0, 1, 2, 5, 9])),
            _ => push,
        }
    }

    pub(crate) fn group(&mut self, groups: u64) -> String {
        ["a", "b", "c", "d"][self.below(groups) as usize].into()
    }

    pub(crate) fn sender(&mut self, senders: u64) -> String {
        ["ann", "bob", "cy", "di", "eve", "fay"][self.below(senders) as usize].into()
    }

    /// A message that may be there.
    pub(crate) fn id(&mut self, labels: u64) -> String {
        if self.one_in(3) {
            format!("i{}", self.below(4))
        } else {
            format!("#{}", labels.saturating_sub(1 + self.below(6)))
        }
    }
}

/// What is left out of worlds: combinations in which the engine is known to part from the rules, or
/// the rules say nothing.
pub(crate) fn known_to_hold(mut world: World) -> World {
    let own = world.profiles[0].settings.clone();
    let several = world.profiles.len() > 1;
    if world.profiles.iter().any(adapts) {
        // What a sender has said in the last minute goes with a sender that is forgotten earlier.
        let idle_group = own.idle_group.max(us(600_000_000));
        Arc::make_mut(&mut world.profiles[0].settings).idle_group = idle_group;
    }
    for profile in &mut world.profiles {
        let base = profile.settings.clone();
        let drops = all(profile).any(|it| it.overflow == Overflow::DropOldest);
        let bands = profile.bands.iter_mut();
        let bands = bands.map(|band| (&mut band.strategy, &mut band.settings));
        let first = (&mut profile.strategy, &mut profile.settings);
        for (strategy, settings) in [first].into_iter().chain(bands) {
            if several && matches!(strategy, Strategy::LoadBalanced | Strategy::Adaptive) {
                // What was measured under another profile is lost.
                *strategy = Strategy::RoundRobin;
            }
            let settings = Arc::make_mut(settings);
            // What kept windows apart does not change while they wait.
            (settings.keep, settings.max_gap) = (own.keep, own.max_gap);
            // Ids that a filter has let go do not come back.
            (settings.dedup, settings.dedup_limit) = (own.dedup, own.dedup_limit);
            // A batch that became due is scored after the drain, by the band of then.
            settings.real_time = base.real_time;
            settings.back_to_back_points = base.back_to_back_points;
            settings.sender = base.sender;
            if settings.lanes == Lanes::Message {
                // A band entered by a message that its own limit evicts.
                settings.capacity_per_group = base.capacity_per_group;
                settings.overflow = base.overflow;
            }
            if drops {
                // The oldest goes before what is due at once has come.
                settings.max_batch = None;
            }
        }
    }
    world
}

fn adapts(profile: &Profile) -> bool {
    let mut bands = profile.bands.iter();
    profile.strategy == Strategy::Adaptive || bands.any(|band| band.strategy == Strategy::Adaptive)
}
