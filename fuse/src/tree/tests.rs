use super::*;

fn node(object: u64) -> Node {
    Node { object: ObjectId(object), links: 1, ..Node::default() }
}

fn sized(object: u64, size: u64) -> Node {
    Node { size, ..node(object) }
}

fn segment(text: &str, directory: bool) -> Segment {
    Segment { text: text.to_owned(), directory }
}

fn file(text: &str) -> Segment {
    segment(text, false)
}

/// A tree with a directory that this mount made at revision 1, and the kernel knows.
fn with_directory() -> (Tree, Ino) {
    let mut tree = Tree::new("", node(0));
    let dir = tree.created(ROOT, &segment("d", true), node(3), 1);
    tree.looked_up(dir);
    tree.made(dir);
    (tree, dir)
}

#[test]
fn a_directory_moves_with_everything_in_it() {
    let mut tree = Tree::new("p/", node(0));
    let (a, b, f) = (segment("a", true), segment("b", true), file("f"));
    let dir = tree.adopt(ROOT, &a, node(0), 0);
    assert!(dir >> 63 == 1);
    let ino = tree.adopt(dir, &f, node(7), 0);
    assert_eq!((ino, tree.key(ino).as_deref()), (8, Some("p/a/f")));
    tree.moved((ROOT, &a), (ROOT, &b));
    assert_eq!(tree.key(ino).as_deref(), Some("p/b/f"));
    assert_eq!(tree.find("p/b/f").unwrap().2, Some(ino));
    assert!(tree.find("p/a/f").is_none());
    assert_eq!(tree.children(dir), [(f, ino)]);
    assert_eq!(tree.children(ROOT), [(b, dir)]);
}

#[test]
fn an_object_has_one_inode_by_all_its_names_and_another_object_another() {
    let mut tree = Tree::new("", node(0));
    let (one, two) = (file("one"), file("two"));
    let ino = tree.adopt(ROOT, &one, node(5), 0);
    tree.looked_up(ino);
    assert_eq!(tree.adopt(ROOT, &two, node(5), 0), ino);
    tree.unname(ROOT, &one);
    assert_eq!(tree.key(ino).as_deref(), Some("two"));
    let other = tree.adopt(ROOT, &two, node(6), 0);
    assert_ne!(other, ino);
    assert_eq!(tree.key(ino), None, "the kernel still knows it, without a name");
    tree.forget(ino, 1);
    assert!(tree.get(ino).is_none());
}

#[test]
fn what_nobody_knows_is_forgotten_up_to_the_root() {
    let mut tree = Tree::new("", node(0));
    let dir = tree.adopt(ROOT, &segment("d", true), node(3), 0);
    let ino = tree.adopt(dir, &file("f"), node(4), 0);
    tree.looked_up(ino);
    tree.forget(dir, 0);
    assert!(tree.get(dir).is_some(), "it leads to a file that is known");
    tree.forget(ino, 1);
    assert!(tree.is_empty());
}

#[test]
fn a_pinned_inode_outlives_what_the_kernel_forgets() {
    let mut tree = Tree::new("", node(0));
    let ino = tree.adopt(ROOT, &file("f"), node(4), 0);
    tree.looked_up(ino);
    tree.pin(ino);
    tree.pin(ino);
    tree.forget(ino, 1);
    tree.unpin(ino);
    assert_eq!(tree.key(ino).as_deref(), Some("f"));
    tree.unpin(ino);
    assert!(tree.is_empty());
}

#[test]
fn a_directory_that_becomes_real_stays_the_same_inode() {
    let mut tree = Tree::new("", node(0));
    let dir = tree.adopt(ROOT, &segment("d", true), node(0), 0);
    assert_eq!(tree.adopt(ROOT, &segment("d", true), node(9), 0), dir);
    assert_eq!(tree.by_object(ObjectId(9)), Some(dir));
    tree.begin_epoch();
    assert!(!tree.is_fresh(dir));
}

#[test]
fn an_older_answer_changes_neither_what_is_known_nor_that_it_counts() {
    let mut tree = Tree::new("", node(0));
    let ino = tree.adopt(ROOT, &file("f"), sized(4, 10), 10);
    tree.update(ino, sized(4, 99), 20);
    tree.update(ino, sized(4, 10), 15);
    assert_eq!(tree.adopt(ROOT, &file("f"), sized(4, 10), 19), ino);
    assert_eq!((tree.get(ino).unwrap().node.size, tree.get(ino).unwrap().as_of), (99, 20));
    tree.begin_epoch();
    tree.update(ino, sized(4, 10), 15);
    assert!(!tree.is_fresh(ino));
    tree.update(ino, sized(4, 100), 20);
    assert!(tree.is_fresh(ino));
    assert_eq!(tree.get(ino).unwrap().node.size, 100);
}

#[test]
fn what_another_client_changed_counts_when_it_was_asked_for_since() {
    let mut tree = Tree::new("", node(0));
    let ino = tree.adopt(ROOT, &file("f"), node(4), 10);
    tree.expire(ino, 20);
    tree.update(ino, sized(4, 1), 19);
    assert_eq!(tree.child(ROOT, &file("f")), Some((ino, false)));
    assert_eq!(tree.get(ino).unwrap().node.size, 1, "it is newer, and not new enough");
    tree.update(ino, sized(4, 2), 20);
    assert!(tree.is_fresh(ino));
}

#[test]
fn what_was_told_of_a_name_before_it_was_known_counts_against_an_older_answer() {
    let mut tree = Tree::new("p/", node(0));
    assert_eq!(tree.hear("p/f", 20), None);
    let ino = tree.adopt(ROOT, &file("f"), node(4), 19);
    assert_eq!(tree.child(ROOT, &file("f")), Some((ino, false)));
    assert_eq!(tree.adopt(ROOT, &file("f"), node(4), 20), ino);
    assert!(tree.is_fresh(ino));
}

#[test]
fn an_older_answer_does_not_undo_a_name_that_a_commit_gave_or_took() {
    let (mut tree, dir) = with_directory();
    let (f, g) = (file("f"), file("g"));
    let ino = tree.created(dir, &f, node(4), 20);
    tree.looked_up(ino);
    assert!(!tree.absent(dir, &f, 19), "it was made since");
    assert_eq!(tree.adopt(dir, &f, node(9), 19), ino, "and is another file than it was");
    tree.renamed(ino, (dir, &f), (dir, &g), 30);
    assert!(tree.is_outdated(dir, &f, 29));
    assert_eq!(tree.adopt(dir, &f, node(4), 29), ino);
    assert_eq!((tree.child(dir, &f), tree.key(ino).as_deref()), (None, Some("d/g")));
    tree.removed(dir, &g, ino, 40);
    assert_eq!(tree.adopt(dir, &g, node(4), 39), ino);
    assert_eq!(tree.key(ino), None);
    assert!(tree.is_complete(dir), "all that is known for certain");
    let again = tree.adopt(dir, &g, node(12), 41);
    assert_eq!(tree.child(dir, &g), Some((again, true)));
    assert!(tree.absent(dir, &g, 42));
    assert_eq!(tree.child(dir, &g), None);
}

#[test]
fn a_link_that_a_commit_took_is_not_counted_by_an_older_answer() {
    let mut tree = Tree::new("", node(0));
    let ino = tree.adopt(ROOT, &file("f"), Node { links: 2, ..node(4) }, 10);
    tree.one_link_less(ino, 20);
    tree.update(ino, Node { links: 2, ..node(4) }, 19);
    assert_eq!(tree.get(ino).unwrap().node.links, 1);
    tree.update(ino, Node { links: 1, ..node(4) }, 30);
    tree.one_link_less(ino, 20);
    assert_eq!(tree.get(ino).unwrap().node.links, 1, "what is newer knew of it");
}

#[test]
fn times_that_a_commit_gave_a_directory_outlast_an_older_answer() {
    let (mut tree, dir) = with_directory();
    let set = BTreeMap::from([("mtime".to_owned(), Some("7".to_owned()))]);
    tree.entries_changed(dir, set, 20);
    tree.update(dir, node(3), 19);
    assert_eq!(tree.get(dir).unwrap().node.metadata["mtime"], "7");
    tree.expire(dir, 18);
    assert!(!tree.is_fresh(dir), "another change is not in what is known, although it is older");
}

#[test]
fn a_directory_that_a_commit_made_real_is_asked_for_and_the_root_of_a_bucket_is_not() {
    let mut tree = Tree::new("", node(0));
    let dir = tree.adopt(ROOT, &segment("d", true), node(0), 1);
    tree.entries_changed(dir, BTreeMap::new(), 2);
    tree.entries_changed(ROOT, BTreeMap::new(), 2);
    assert!(!tree.is_fresh(dir) && tree.is_fresh(ROOT));
}

#[test]
fn a_directory_that_was_made_here_is_complete_until_another_client_touches_it() {
    let (mut tree, dir) = with_directory();
    assert!(tree.is_complete(dir));
    let ino = tree.created(dir, &file("f"), node(4), 2);
    tree.looked_up(ino);
    assert!(tree.is_complete(dir));
    tree.hear("d/f", 3);
    assert!(tree.is_complete(dir), "it was known");
    tree.hear("d/new/x", 4);
    assert!(!tree.is_complete(dir));

    let (mut tree, dir) = with_directory();
    tree.begin_epoch();
    tree.update(dir, node(3), 2);
    assert!(tree.is_fresh(dir) && !tree.is_complete(dir));

    let (mut tree, dir) = with_directory();
    tree.expire(dir, 2);
    tree.update(dir, node(3), 3);
    assert!(tree.is_fresh(dir) && !tree.is_complete(dir));
}

#[test]
fn a_directory_that_another_client_wrote_into_before_it_was_adopted_is_not_complete() {
    let mut tree = Tree::new("", node(0));
    assert_eq!(tree.hear("d/x", 20), Some((ROOT, segment("d", true))));
    let dir = tree.created(ROOT, &segment("d", true), node(3), 19);
    tree.made(dir);
    assert!(!tree.is_complete(dir));
}

#[test]
fn a_directory_whose_entry_the_kernel_forgot_is_not_complete() {
    let (mut tree, dir) = with_directory();
    let ino = tree.created(dir, &file("f"), node(4), 2);
    tree.looked_up(ino);
    tree.removed(dir, &file("f"), ino, 3);
    tree.forget(ino, 1);
    assert!(tree.is_complete(dir), "it had no name");
    let ino = tree.created(dir, &file("f"), node(5), 4);
    tree.looked_up(ino);
    tree.forget(ino, 1);
    assert!(!tree.is_complete(dir));
}

#[test]
fn a_listing_makes_complete_what_nothing_came_between() {
    let list = |between: fn(&mut Tree, Ino)| {
        let mut tree = Tree::new("", node(0));
        let dir = tree.adopt(ROOT, &segment("d", true), node(3), 1);
        tree.looked_up(dir);
        let begun = tree.listing_begins(dir).unwrap();
        let ino = tree.adopt(dir, &file("f"), node(4), 10);
        tree.looked_up(ino);
        between(&mut tree, dir);
        tree.completed(dir, begun);
        tree.is_complete(dir)
    };
    assert!(list(|_, _| ()));
    assert!(list(|tree, _| drop(tree.hear("d/f", 11))));
    assert!(!list(|tree, _| drop(tree.hear("d/g", 11))));
    assert!(!list(|tree, _| tree.forget(5, 1)));
    assert!(!list(|tree, _| tree.begin_epoch()));
    assert!(!list(|tree, dir| tree.doubt(dir)));
    assert!(!list(|tree, _| tree.doubt_above("d/f.conflict-1")));
    let not_told_at_first = |tree: &mut Tree, dir| {
        for told in [false, true] {
            let ino = tree.adopt(dir, &file("g"), node(6), 10);
            tree.looked_up(ino);
            if !told {
                tree.untold(ino);
            }
        }
    };
    assert!(list(not_told_at_first));
}

#[test]
fn a_removal_that_another_client_may_have_followed_proves_nothing() {
    let (mut tree, dir) = with_directory();
    let ino = tree.created(dir, &file("f"), node(4), 2);
    tree.looked_up(ino);
    // Another client made it anew, which was told before the commit that removed it was.
    tree.hear("d/f", 4);
    tree.removed(dir, &file("f"), ino, 3);
    assert_eq!(tree.child(dir, &file("f")), None);
    assert!(!tree.is_complete(dir));
}

#[test]
fn a_directory_beside_a_known_file_is_noticed() {
    let mut tree = Tree::new("", node(0));
    let ino = tree.adopt(ROOT, &file("a"), node(4), 1);
    assert_eq!(tree.hear("a/b", 2), Some((ROOT, segment("a", true))));
    assert!(!tree.is_fresh(ino), "its name is shown otherwise now");
}

#[test]
fn a_file_and_a_directory_change_places_with_their_kinds() {
    let (mut tree, dir) = with_directory();
    let ino = tree.created(ROOT, &file("f"), node(4), 2);
    tree.looked_up(ino);
    tree.exchanged((ROOT, &file("f")), (ROOT, &segment("d", true)), 3);
    assert_eq!((tree.key(ino).as_deref(), tree.key(dir).as_deref()), (Some("d"), Some("f/")));
    assert_eq!(tree.child(ROOT, &file("f")), None);
}

#[test]
fn of_very_many_changed_names_only_the_last_revision_is_kept() {
    let (mut tree, dir) = with_directory();
    for number in 0..STAMPS_MAX as u64 + 10 {
        tree.hear(&format!("d/{number}"), 100 + number);
    }
    assert!(tree.stamps.by_name.len() <= STAMPS_MAX);
    let ino = tree.adopt(dir, &file("0"), node(4), 99);
    assert_eq!(tree.child(dir, &file("0")), Some((ino, false)), "it may have changed since");
    tree.update(ino, node(4), 100 + 2 * STAMPS_MAX as u64);
    assert!(tree.is_fresh(ino));
}
