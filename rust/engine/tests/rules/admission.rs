//! What is let in (section A).

use chinwag_engine::{End, Options, Refusal, Settings};

use crate::world::{World, at, seconds};

fn named(id: &str) -> Options {
    Options {
        id: Some(id.into()),
        ..Options::default()
    }
}

#[test]
fn an_id_that_waits_or_runs_is_a_duplicate() {
    let mut world = World::new(Settings::default());
    world
        .push_with(0.0, "room", "ann", "a", named("1"))
        .expect("accepted");
    let waits = world.push_with(0.0, "room", "bob", "again", named("1"));
    let call = world.poll(0.0).remove(0);
    let runs = world.push_with(0.5, "room", "ann", "again", named("1"));
    let elsewhere = world.push_with(0.5, "hall", "ann", "again", named("1"));
    world.done(1.0, &call).expect("it ran");
    let ended = world.push_with(1.0, "room", "ann", "again", named("1"));

    assert_eq!(waits.expect_err("refused"), (Refusal::Duplicate, 1));
    assert_eq!(runs.expect_err("refused"), (Refusal::Duplicate, 0));
    assert!(elsewhere.is_ok() && ended.is_ok());
}

#[test]
fn a_window_of_ids_is_counted_from_the_acceptance_and_never_renewed() {
    let mut world = World::new(Settings {
        dedup: seconds(10.0),
        ..Settings::default()
    });
    world
        .push_with(0.0, "room", "ann", "a", named("1"))
        .expect("accepted");
    let call = world.poll(0.0).remove(0);
    world.done(9.0, &call).expect("it ran");

    assert!(
        world
            .push_with(10.0, "room", "ann", "again", named("1"))
            .is_err()
    );
    assert!(
        world
            .push_with(10.000_001, "room", "ann", "again", named("1"))
            .is_ok()
    );
}

#[test]
fn a_failed_message_may_be_delivered_again_at_once() {
    let mut world = World::new(Settings {
        dedup: seconds(10.0),
        max_attempts: 1,
        ..Settings::default()
    });
    world
        .push_with(0.0, "room", "ann", "a", named("1"))
        .expect("accepted");
    let call = world.poll(0.0).remove(0);
    world.failed(1.0, &call).expect("it ran");

    assert_eq!(world.ends(), [("a", End::Dead)]);
    assert!(
        world
            .push_with(1.0, "room", "ann", "again", named("1"))
            .is_ok()
    );
}

#[test]
fn a_refused_message_leaves_no_trace() {
    let mut world = World::new(Settings {
        capacity_per_group: Some(1),
        ..Settings::default()
    });
    world.engine.pause(at(0.0), None, None, &mut world.out);
    world.push(0.0, "ann", "a");
    let full = world.push_with(0.0, "room", "ann", "b", named("b"));
    world.engine.resume(at(1.0), None, &mut world.out);
    world.poll(1.0);

    assert_eq!(full.expect_err("refused"), (Refusal::GroupFull, 1));
    assert!(
        world.push_with(1.0, "room", "ann", "b", named("b")).is_ok(),
        "its id did not enter the filter"
    );
    assert_eq!(world.ledger(1.0).accepted, 2);
}

#[test]
fn capacity_ends_with_the_first_start() {
    let mut world = World::new(Settings {
        capacity_per_group: Some(2),
        capacity: Some(3),
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    world.push(0.0, "ann", "b");
    assert_eq!(
        world.push_with(0.0, "room", "ann", "c", Options::default()),
        Err((Refusal::GroupFull, 2))
    );
    world.push_to(0.0, "hall", "d");
    assert_eq!(
        world.push_with(0.0, "attic", "ann", "e", Options::default()),
        Err((Refusal::Full, 3))
    );

    world.poll(0.0);

    assert!(
        world
            .push_with(0.1, "room", "ann", "c", Options::default())
            .is_ok()
    );
}

#[test]
fn exactly_one_push_wakes_a_sleeping_owner() {
    let mut world = World::new(Settings::default());
    let first = [
        world.push_to(0.0, "room", "a").wake,
        world.push_to(0.0, "hall", "b").wake,
    ];
    world.poll(0.0);
    let second = [
        world.push_to(0.1, "room", "c").wake,
        world.push_to(0.1, "room", "d").wake,
    ];

    assert_eq!((first, second), ([true, false], [true, false]));
}

#[test]
fn a_refused_push_leaves_no_group_behind() {
    let mut world = World::new(Settings {
        capacity: Some(1),
        ..Settings::default()
    });
    world.push_to(0.0, "full", "a");
    for name in ["one", "two"] {
        let refused = world.push_with(0.0, name, "ann", "b", Options::default());
        assert_eq!(refused, Err((Refusal::Full, 1)));
    }
    assert_eq!(world.engine.intake().names(), ["full"]);
}
