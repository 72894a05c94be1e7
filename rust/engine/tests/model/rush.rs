//! O5: nobody is overtaken for ever, however many come with more points.

use chinwag_engine::{FairBy, Points, Profile, Settings, Strategy, Weight};

use super::dice::Dice;
use super::script::{Ending, Op, Push, Step, World, as_code, at, push};
use super::{Micros, Model};
use crate::Simulation;

/// Rivals in endless supply, all with more points than the one who waits.
#[derive(Debug)]
struct Rush {
    /// They are groups, not senders of one group.
    groups: bool,
    world: World,
    rivals: u64,
    /// Each comes once; otherwise they take turns.
    fresh: bool,
    /// Points that they have more.
    lead: f64,
    /// How often the one who waits was served before its turn.
    favours: u64,
}

/// Lives through the rush of a seed. How many went first, or a report.
pub(crate) fn rush(seed: u64) -> Result<u64, String> {
    let dice = &mut Dice(seed);
    let rush = Rush::draw(dice);
    let mut steps = Vec::new();
    rush.live(dice, &mut steps)
        .map_err(|what| format!("seed {seed}: {what}\n\n{}", as_code(&rush.world, &steps)))
}

impl Rush {
    fn draw(dice: &mut Dice) -> Self {
        let groups = dice.one_in(2);
        let slots = dice.pick(&[1, 1, 2, 3]);
        let strategy = if groups {
            Strategy::RoundRobin
        } else {
            dice.pick(&Strategy::ALL)
        };
        let settings = |weight: f64, fair_by| Settings {
            max_concurrent: Some(slots),
            max_concurrent_per_group: if groups { 1 } else { slots },
            weight: Weight::from_f64(weight).unwrap(),
            aging: Points::from_f64(1e5),
            back_to_back_points: Points::default(),
            burst_points: Points::default(),
            max_attempts: 1,
            fair_by,
            ..Settings::default()
        };
        let fair_by = dice.pick(&[FairBy::Calls, FairBy::Time]);
        let weights = [1.0, 1.0, 0.5, 4.0];
        let profiles = (0..if groups { 2 } else { 1 })
            .map(|_| Profile::always(settings(dice.pick(&weights), fair_by), strategy));
        Self {
            groups,
            world: World {
                profiles: profiles.collect(),
                watched: false,
                ending: Ending::Drain,
            },
            rivals: 1 + dice.below(5),
            fresh: dice.one_in(2),
            lead: dice.pick(&[0.0, 0.5, 1.0, 2.5, 4.0]),
            favours: dice.below(4),
        }
    }

    fn live(&self, dice: &mut Dice, steps: &mut Vec<Step>) -> Result<u64, String> {
        let mut simulation = Simulation::new(&self.world, None);
        let mut next = 0;
        let configure = Op::Configure {
            group: "v".into(),
            profile: 1,
        };
        if self.groups {
            step(&mut simulation, steps, at(0, configure))?;
        }
        for _ in 0..self.favours {
            let favour = victim().rank(self.lead + 5.0);
            self.refill(&mut simulation, steps, &mut next)?;
            let favour = at(simulation.now, favour);
            step(&mut simulation, steps, favour)?;
            self.go_on(dice, &mut simulation, steps)?;
        }
        while simulation.seen.has(is_victim) {
            self.go_on(dice, &mut simulation, steps)?;
        }
        self.refill(&mut simulation, steps, &mut next)?;

        let mine = simulation.next_label;
        let came_at = simulation.now;
        let it = at(came_at, victim());
        step(&mut simulation, steps, it)?;
        simulation.model.drain(simulation.now);
        let ahead = simulation.model.ahead("v", (!self.groups).then_some("v"));
        let begun = simulation.seen.log.len();
        let bound = (self.lead + ahead + 1.0) * self.weights() + 1.0;
        loop {
            self.go_on(dice, &mut simulation, steps)?;
            let started = &simulation.seen.log[begun..];
            let before = started.iter().take_while(|labels| !labels.contains(&mine));
            let before: Vec<_> = before.collect();
            let overtook = before.iter().filter(|labels| labels[0] > mine).count() as u64;
            if self.ages() {
                // Who came so much later has no more points than the one who waits has gained.
                let gained = came_at + (self.lead * 10.0) as Micros;
                let late = |label: &u64| simulation.seen.came_at(*label) > gained;
                if before.iter().copied().flatten().any(late) {
                    return Err("overtaken by one that came too late".into());
                }
            } else if overtook as f64 > bound {
                return Err(format!("overtaken {overtook} times, at most {bound}"));
            }
            if before.len() < started.len() {
                return Ok(overtook);
            }
            self.refill(&mut simulation, steps, &mut next)?;
        }
    }

    fn ages(&self) -> bool {
        self.world.profiles[0].strategy == Strategy::Priority
    }

    /// The summed weights of all that may compete at once.
    fn weights(&self) -> f64 {
        let own = self.world.own();
        let rivals = self.rivals + u64::from(own.max_concurrent.unwrap());
        if self.groups {
            let [theirs, mine] = [0, 1].map(|at| self.world.profiles[at].settings.weight);
            rivals as f64 * theirs.as_f64() + mine.as_f64()
        } else {
            rivals as f64 + 1.0
        }
    }

    /// There are always as many rivals that wait.
    fn refill(
        &self,
        simulation: &mut Simulation,
        steps: &mut Vec<Step>,
        next: &mut u64,
    ) -> Result<(), String> {
        let waiting = simulation.seen.count(|push| !is_victim(push));
        for _ in waiting..self.rivals {
            let slots = u64::from(self.world.own().max_concurrent.unwrap());
            let name = if self.fresh {
                format!("r{next}")
            } else {
                format!("r{}", *next % (self.rivals + slots))
            };
            *next += 1;
            let group = if self.groups { &name } else { "v" };
            let rival = push(group, &name).rank(self.lead);
            step(simulation, steps, at(simulation.now, rival))?;
        }
        Ok(())
    }

    /// What may start, starts, and then one ends.
    fn go_on(
        &self,
        dice: &mut Dice,
        simulation: &mut Simulation,
        steps: &mut Vec<Step>,
    ) -> Result<(), String> {
        step(simulation, steps, at(simulation.now, Op::Poll))?;
        let took = match dice.below(8) {
            0 => dice.below(3_000_000),
            _ => dice.below(3),
        };
        let took = if self.ages() { took.min(2) } else { took };
        let ends = Op::Settle {
            call: dice.below(4) as usize,
            well: true,
        };
        step(simulation, steps, at(simulation.now + took, ends))
    }
}

/// The one who waits.
fn victim() -> Push {
    push("v", "v")
}

fn is_victim(push: &Push) -> bool {
    push.sender == "v"
}

fn step(simulation: &mut Simulation, steps: &mut Vec<Step>, step: Step) -> Result<(), String> {
    steps.push(step.clone());
    simulation
        .step(&step)
        .map_err(|what| format!("{step}: {what}"))
}

impl Model {
    /// How far a group, or a sender in it, stands above now served, in points.
    fn ahead(&self, group: &str, sender: Option<&str>) -> f64 {
        let Some(group) = self.groups.iter().find(|it| it.name == group) else {
            return 0.0;
        };
        let (standing, served) = match sender {
            None => (group.standing.points, self.now_served.points()),
            Some(sender) => {
                let own = group.senders.iter().find(|it| it.0 == sender);
                let own = own.map_or(0, |it| it.1.points);
                (own, group.now_served.points())
            }
        };
        (standing - served).max(0) as f64 / 1e6
    }
}
