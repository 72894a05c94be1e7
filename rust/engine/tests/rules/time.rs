//! Time (section T).

use chinwag_engine::{End, Options, Outbox, Settings};

use crate::world::{World, at, seconds};

#[test]
fn engine_time_never_goes_back() {
    let mut world = World::new(Settings {
        quiet: seconds(2.0),
        ..Settings::default()
    });
    world.poll(10.0);
    world.push(5.0, "ann", "a");

    assert_eq!(
        world.starts(3.0),
        [["a"]],
        "at 10, of which its arrival is 5 s ago"
    );
}

#[test]
fn arrivals_of_a_group_do_not_go_back() {
    let mut world = World::new(Settings::default());
    world.push(5.0, "ann", "a");
    world.push(4.0, "ann", "b");
    world.engine.poll(at(6.0), &mut world.out);
    let lease = world.out.started[0];
    let arrivals: Vec<_> = world
        .engine
        .batch(lease)
        .expect("it runs")
        .messages()
        .map(|message| message.arrived_at)
        .collect();

    assert_eq!(arrivals, [at(5.0), at(5.0)]);
}

#[test]
fn the_same_calls_give_the_same_answers() {
    let run = || {
        let mut world = World::new(Settings {
            quiet: seconds(0.5),
            max_concurrent: Some(2),
            ..Settings::default()
        });
        let mut log = Vec::new();
        for step in 0..500_u32 {
            let now = f64::from(step) * 0.1;
            let group = ["g1", "g2", "g3"][(step * step % 3) as usize];
            world
                .push_with(
                    now,
                    group,
                    ["ann", "bob"][(step % 2) as usize],
                    "word",
                    Options::default(),
                )
                .ok();
            let calls = world.poll(now);
            log.push(
                calls
                    .iter()
                    .map(|call| call.words.len())
                    .collect::<Vec<_>>(),
            );
            for call in calls {
                world.done(now + 0.05, &call).expect("it ran");
            }
        }
        (
            log,
            world
                .engine
                .check(at(100.0), &mut Outbox::default())
                .expect("balanced"),
        )
    };

    assert_eq!(run(), run());
}

#[test]
fn a_delayed_message_can_expire_before_anybody_looks() {
    let mut world = World::new(Settings {
        ttl: Some(seconds(0.0)),
        ..Settings::default()
    });
    let delayed = Options {
        delay: Some(seconds(5.0)),
        ..Options::default()
    };
    world
        .push_with(0.0, "room", "bob", "late", delayed)
        .unwrap();
    world
        .push_with(6.0, "room", "bob", "now", Options::default())
        .unwrap();

    assert_eq!(world.starts(6.0), [["now"]]);
    assert_eq!(world.ends(), [("late", End::Expired)]);
}
