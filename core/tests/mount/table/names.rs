//! Files of several names, and what attributes may say.

use super::*;

#[test]
fn each_name_of_a_file_is_told_of_when_it_changes() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    world.done(vec![link(world.file("a"), "b")]);
    let names = |world: &World, after: u64| -> Vec<(EventKind, String)> {
        world.events(after).into_iter().map(|(kind, key, _)| (kind, key)).collect()
    };
    let both = |kind: EventKind| vec![(kind, "a".to_owned()), (kind, "b".to_owned())];
    let after = world.machine.revision;
    world.written("b", 0, 100);
    assert_eq!(names(&world, after), both(EventKind::Patched));
    let after = world.machine.revision;
    world.done(vec![Step::Cut(world.file("a"))]);
    assert_eq!(names(&world, after), both(EventKind::Put));
    let after = world.machine.revision;
    let set = [("mode".to_owned(), Some("1".to_owned()))].into();
    world.done(vec![Step::SetAttributes(SetFileAttributes { file: world.file("b"), set })]);
    assert_eq!(names(&world, after), both(EventKind::AttributesChanged));
}

#[test]
fn attributes_are_what_headers_can_say() {
    let mut world = World::new();
    world.done(vec![create("a")]);
    let invalid = |error: Error| assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    let bad = [
        ("a b", "1"),
        ("Mode", "1"),
        ("", "1"),
        ("m\n", "1"),
        ("mode", "\r\nx: y"),
        ("mode", "\u{7f}"),
        ("mode", "\u{e9}"),
    ];
    for (name, value) in bad {
        let set = [(name.to_owned(), Some(value.to_owned()))].into();
        let step = Step::SetAttributes(SetFileAttributes { file: world.file("a"), set });
        let outcomes = world.unmodelled(vec![step]);
        let [StepOutcome::Refused(refusal)] = &outcomes[..] else { panic!("{name:?} {value:?}: {outcomes:?}") };
        invalid(refusal.clone());
    }
    let (metadata, bytes) = (BTreeMap::new(), Vec::new());
    let content_type = Some("text/plain\n".to_owned());
    let outcomes =
        world.unmodelled(vec![Step::Create(CreateFile { key: object_key("b"), metadata, content_type, bytes })]);
    assert!(matches!(&outcomes[..], [StepOutcome::Refused(_)]), "{outcomes:?}");
    let set = [("xattr".to_owned(), Some("%7B%22user.x%22%3A%22YQ%3D%3D%22%7D".to_owned()))].into();
    world.done(vec![Step::SetAttributes(SetFileAttributes { file: world.file("a"), set })]);
}

#[test]
fn names_that_change_places_or_share_a_file_need_leave_for_both() {
    use holdfast_core::rules::authorize::AuthorizedOp;
    let mut world = World::new();
    world.done(vec![create("a"), create("b")]);
    let (file, bucket) = (world.file("a"), world.bucket.clone());
    let on = |action, key: &str| permit(action, Resource::Object(bucket.name.clone(), object_key(key)));
    let mut check = |step: Step, needed: Vec<(Action, &str)>| {
        let op = Op::MountCommit(world.commit_op(vec![step], None));
        let all: Vec<_> = needed.iter().map(|(action, key)| on(*action, key)).collect();
        assert!(AuthorizedOp::new(op.clone(), &all).is_ok());
        for (without, what) in needed.iter().enumerate() {
            let mut some = all.clone();
            some.remove(without);
            assert!(AuthorizedOp::new(op.clone(), &some).is_err(), "{what:?} is not asked for");
        }
    };
    let actions = [Action::GetObject, Action::DeleteObject, Action::PutObject];
    let both = actions.iter().flat_map(|action| [(*action, "a"), (*action, "b")]).collect();
    check(rename(file.clone(), "b", Onto::Exchange), both);
    let linked = vec![(Action::GetObject, "a"), (Action::PutObject, "a"), (Action::PutObject, "c")];
    check(link(file, "c"), linked);
}
