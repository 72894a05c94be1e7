//! Who starts next (section O).

use chinwag_engine::{Lanes, Options, Points, Settings, Size};

use crate::world::World;

fn one_at_a_time() -> Settings {
    Settings {
        max_concurrent: Some(1),
        max_concurrent_per_group: 1,
        max_batch: Some(Size::ONE),
        ..Settings::default()
    }
}

/// Runs everything, one call after the other, and says what started in which order.
fn run_dry(world: &mut World, mut now: f64) -> Vec<&'static str> {
    let mut order = Vec::new();
    while let Some(call) = world.poll(now).pop() {
        order.extend(&call.words);
        now += 1.0;
        world.done(now, &call).expect("it ran");
    }
    order
}

#[test]
fn groups_take_turns() {
    let mut world = World::new(one_at_a_time());
    for (group, word) in [
        ("g1", "a1"),
        ("g1", "a2"),
        ("g1", "a3"),
        ("g2", "b1"),
        ("g3", "c1"),
        ("g3", "c2"),
    ] {
        world.push_to(0.0, group, word);
    }

    assert_eq!(
        run_dry(&mut world, 0.0),
        ["a1", "b1", "c1", "a2", "c2", "a3"]
    );
}

#[test]
fn senders_of_a_group_take_turns() {
    let mut world = World::new(one_at_a_time());
    for (sender, word) in [
        ("ann", "a1"),
        ("ann", "a2"),
        ("ann", "a3"),
        ("bob", "b1"),
        ("cid", "c1"),
    ] {
        world.push(0.0, sender, word);
    }

    assert_eq!(run_dry(&mut world, 0.0), ["a1", "b1", "c1", "a2", "a3"]);
}

#[test]
fn a_flood_does_not_hold_up_who_comes_later() {
    let mut world = World::new(Settings {
        lanes: Lanes::Message,
        ..one_at_a_time()
    });
    for _ in 0..100 {
        world.push_to(0.0, "noisy", "noise");
    }
    let mut running = world.poll(0.0);
    for now in 1..50 {
        world
            .done(f64::from(now), &running.remove(0))
            .expect("it ran");
        running = world.poll(f64::from(now));
    }
    world.push_to(49.5, "quiet", "question");
    world.done(50.0, &running.remove(0)).expect("it ran");
    let next = world.poll(50.0).remove(0);
    world.done(51.0, &next).expect("it ran");
    let after = world.poll(51.0).remove(0);

    assert!(
        [next.words, after.words].contains(&vec!["question"]),
        "at the first or second slot"
    );
}

#[test]
fn idling_earns_no_credit() {
    let mut world = World::new(one_at_a_time());
    for word in ["a1", "a2", "a3", "a4", "a5", "a6"] {
        world.push_to(0.0, "busy", word);
    }
    let mut running = world.poll(0.0);
    for now in [1.0, 2.0] {
        world.done(now, &running.remove(0)).expect("it ran");
        running = world.poll(now);
    }
    for word in ["b1", "b2", "b3"] {
        world.push_to(2.5, "idle", word);
    }
    world.done(3.0, &running.remove(0)).expect("it ran");

    let order = run_dry(&mut world, 3.0);

    let place = |word| {
        order
            .iter()
            .position(|other| *other == word)
            .expect("it ran")
    };
    assert!(
        place("a4") < place("b2") && place("a5") < place("b3"),
        "{order:?}: turns from now on, none made up for"
    );
}

#[test]
fn both_caps_hold() {
    let mut world = World::new(Settings {
        max_concurrent: Some(3),
        ..Settings::default()
    });
    for group in ["g1", "g2"] {
        for sender in ["ann", "bob", "cid"] {
            world
                .push_with(0.0, group, sender, "word", Options::default())
                .expect("accepted");
        }
    }

    assert_eq!(world.poll(0.0).len(), 3);
    assert_eq!(
        world
            .engine
            .status(crate::world::at(0.0), "g1", &mut world.out)
            .expect("known")
            .running,
        2
    );
}

#[test]
fn calls_of_one_lane_never_overlap() {
    let mut world = World::new(Settings {
        max_batch: Some(Size::ONE),
        ..Settings::default()
    });
    for word in ["a", "b"] {
        world.push(0.0, "ann", word);
    }

    assert_eq!(
        world.starts(0.0),
        [["a"]],
        "though the group has a second slot"
    );
}

#[test]
fn equals_between_groups_go_by_the_first_push() {
    let mut world = World::new(Settings {
        max_batch: Some(Size::ONE),
        ..Settings::default()
    });
    let push = |world: &mut World, group, sender, word| {
        world
            .push_with(0.0, group, sender, word, Options::default())
            .expect("accepted");
    };
    for (group, sender, word) in [
        ("c", "bob", "c1"),
        ("a", "bob", "a1"),
        ("c", "bob", "c2"),
        ("d", "di", "d1"),
        ("d", "ann", "d2"),
    ] {
        push(&mut world, group, sender, word);
    }
    let calls = world.poll(0.0);
    push(&mut world, "c", "cy", "c3");
    world.done(0.0, &calls[3]).expect("it ran");
    world.done(0.0, &calls[0]).expect("it ran");
    push(&mut world, "d", "bob", "d3");

    assert_eq!(world.starts(0.0), [["c2"], ["c3"], ["d3"]]);
}

#[test]
fn of_a_senders_messages_for_themselves_the_best_goes_first() {
    let mut world = World::new(Settings {
        lanes: Lanes::Message,
        max_concurrent_per_group: 1,
        back_to_back_points: Points::default(),
        burst_points: Points::default(),
        ..Settings::default()
    });
    for (sender, word, rank) in [
        ("ann", "low", 0.0),
        ("ann", "low too", 0.0),
        ("ann", "high", 5.0),
        ("bob", "middle", 2.0),
    ] {
        let options = Options {
            rank: Points::from_f64(rank),
            ..Options::default()
        };
        world.push_with(0.0, "room", sender, word, options).unwrap();
    }
    let mut order = Vec::new();
    while let Some(call) = world.poll(1.0).pop() {
        order.extend(call.words.clone());
        world.done(1.0, &call).unwrap();
    }
    assert_eq!(order, ["high", "middle", "low", "low too"]);
}
