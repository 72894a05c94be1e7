//! Idle groups and senders are forgotten (rule G5).

use chinwag_engine::{Lanes, Options, Settings};

use crate::world::{World, at, seconds};

#[test]
fn an_idle_group_is_forgotten_and_can_come_again() {
    let mut world = World::new(Settings {
        idle_group: seconds(60.0),
        size_window: seconds(60.0),
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.done(1.0, &call).expect("it ran");
    assert_eq!(world.engine.groups(at(61.0), &mut world.out), ["room"]);

    assert!(world.engine.groups(at(61.1), &mut world.out).is_empty());
    world.push(62.0, "ann", "b");
    assert_eq!(world.starts(62.0), [["b"]]);
}

#[test]
fn what_is_still_needed_is_not_forgotten() {
    let settings = Settings {
        idle_group: seconds(1.0),
        size_window: seconds(1.0),
        dedup: seconds(100.0),
        ..Settings::default()
    };
    let mut world = World::new(settings);
    world
        .engine
        .pause(at(0.0), Some("paused"), None, &mut world.out);
    let named = Options {
        id: Some("1".into()),
        ..Options::default()
    };
    world
        .push_with(0.0, "filter", "ann", "a", named.clone())
        .expect("accepted");
    world.push_to(0.0, "running", "b");
    let calls = world.poll(0.0);
    world.done(0.0, &calls[0]).expect("it ran");
    world.poll(50.0);

    assert_eq!(
        world.engine.groups(at(50.0), &mut world.out),
        ["filter", "running", "paused"]
    );
    assert!(
        world
            .push_with(50.0, "filter", "ann", "again", named)
            .is_err()
    );
    world.done(100.0, &calls[1]).expect("it ran");
    assert_eq!(world.engine.groups(at(200.0), &mut world.out), ["paused"]);
}

#[test]
fn a_sweep_forgets_without_being_asked() {
    let mut world = World::new(Settings {
        idle_group: seconds(60.0),
        size_window: seconds(60.0),
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.done(0.0, &call).expect("it ran");
    for _ in 0..40 {
        let tidy_at = world.engine.tidy_at();
        if tidy_at == chinwag_engine::Time::NEVER {
            break;
        }
        world.engine.poll(tidy_at, &mut world.out);
    }

    assert_eq!(world.engine.metrics().forgotten_groups, 1);
}

#[test]
fn senders_of_a_lively_group_are_forgotten_too() {
    let mut world = World::new(Settings {
        idle_group: seconds(60.0),
        size_window: seconds(60.0),
        ..Settings::default()
    });
    for (now, sender) in [(0.0, "ann"), (50.0, "bob"), (100.0, "bob")] {
        world.push(now, sender, "word");
        let call = world.poll(now).remove(0);
        world.done(now, &call).expect("it ran");
    }

    world.engine.groups(at(100.0), &mut world.out); // which sweeps
    let status = world
        .engine
        .status(at(100.0), "room", &mut world.out)
        .expect("known");
    assert_eq!(status.senders, 1);
}

#[test]
fn a_sender_is_remembered_while_a_group_lane_holds_their_messages() {
    let mut world = World::new(Settings {
        lanes: Lanes::Group,
        idle_group: seconds(1.0),
        size_window: seconds(1.0),
        burst: seconds(1.0),
        back_to_back: seconds(1.0),
        ..Settings::default()
    });
    world.push(0.0, "ann", "runs");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "bob", "waits");
    assert_eq!(
        world.engine.groups(at(50.0), &mut world.out),
        ["room"],
        "which sweeps"
    );

    let running = world.engine.batch(call.lease).expect("it runs");
    assert_eq!(running.messages().next().expect("one").sender, "ann");
    world.done(60.0, &call).expect("it ran");
    let call = world.poll(60.0).remove(0);
    let running = world.engine.batch(call.lease).expect("it runs");
    assert_eq!(running.messages().next().expect("one").sender, "bob");
    world.push(61.0, "cid", "later");
    world.engine.groups(at(100.0), &mut world.out);
    let status = world.engine.status(at(100.0), "room", &mut world.out);
    assert_eq!(
        status.expect("known").senders,
        2,
        "bob and cid: ann is forgotten"
    );
}

#[test]
fn what_is_back_to_back_is_not_forgotten() {
    let mut world = World::new(Settings {
        idle_group: seconds(1.0),
        size_window: seconds(1.0),
        burst: seconds(1.0),
        back_to_back: seconds(60.0),
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.done(0.0, &call).expect("it ran");
    world.engine.groups(at(30.0), &mut world.out);
    world.push(30.0, "ann", "b");

    assert_eq!(world.poll(30.0)[0].kind, "back_to_back");
}
