//! Attributes come and go as metadata.

use proptest::prelude::*;

use super::*;

fn node(metadata: &[(&str, &str)]) -> Node {
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Node { metadata, modified_ms: 1_700_000_000_123, ..Node::default() }
}

fn of(metadata: &[(&str, &str)]) -> Attributes {
    Attributes::of(&node(metadata), false, &Defaults::of(1000, 100))
}

fn at(seconds: i64, nanos: u32) -> Time {
    Time { seconds, nanos }
}

#[test]
fn objects_without_metadata_have_defaults() {
    let file = of(&[]);
    let modified = at(1_700_000_000, 123_000_000);
    assert_eq!((file.kind, file.mode, file.uid, file.gid), (Kind::File, 0o644, 1000, 100));
    assert_eq!((file.mtime, file.ctime, file.atime), (modified, modified, modified));
    let directory = Attributes::of(&node(&[]), true, &Defaults::of(1000, 100));
    assert_eq!((directory.kind, directory.mode), (Kind::Directory, 0o755));
}

#[test]
fn modes_are_read_in_every_form() {
    let table = [
        ("33188", Kind::File, 0o644),
        ("0100755", Kind::File, 0o755),
        ("0o100755", Kind::File, 0o755),
        ("0x81A4", Kind::File, 0o644),
        ("41471", Kind::Symlink, 0o777),
        ("420", Kind::File, 0o644),
        ("0", Kind::File, 0),
        ("4516", Kind::Fifo, 0o644),
        ("8612", Kind::CharDevice, 0o644),
        ("25008", Kind::BlockDevice, 0o660),
        ("49572", Kind::Socket, 0o644),
        ("36333", Kind::File, 0o6755),
        // A directory without a slash is none.
        ("16877", Kind::File, 0o755),
        ("", Kind::File, 0o644),
        ("+33188", Kind::File, 0o644),
        ("rw-r--r--", Kind::File, 0o644),
        ("99999999999", Kind::File, 0o644),
    ];
    for (text, kind, mode) in table {
        let found = of(&[("mode", text)]);
        assert_eq!((found.kind, found.mode), (kind, mode), "{text}");
    }
    let directory = Attributes::of(&node(&[("mode", "41471")]), true, &Defaults::of(0, 0));
    assert_eq!((directory.kind, directory.mode), (Kind::Directory, 0o777));
}

#[test]
fn times_are_read_in_every_form() {
    let table = [
        ("1700000000", Some(at(1_700_000_000, 0))),
        ("1700000000.5", Some(at(1_700_000_000, 500_000_000))),
        ("1700000000.000000001", Some(at(1_700_000_000, 1))),
        ("1700000000.1234567899", Some(at(1_700_000_000, 123_456_789))),
        ("1700000000.", Some(at(1_700_000_000, 0))),
        ("-1.5", Some(at(-2, 500_000_000))),
        ("-0.25", Some(at(-1, 750_000_000))),
        ("-9223372036854775808", Some(at(i64::MIN, 0))),
        ("-9223372036854775808.5", None),
        ("9223372036854775808", None),
        ("1595002920000000000ns", Some(at(1_595_002_920, 0))),
        ("-1ns", Some(at(-1, 999_999_999))),
        ("2023-11-14T22:13:20.25Z", Some(at(1_700_000_000, 250_000_000))),
        ("2023-11-14T23:13:20+01:00", Some(at(1_700_000_000, 0))),
        ("1.7e9", None),
        ("+1", None),
        ("", None),
        (".", None),
        ("-", None),
        ("--1", None),
        ("nan", None),
        ("1.-5", None),
    ];
    for (text, expected) in table {
        assert_eq!(Time::parse(text), expected, "{text}");
    }
    assert_eq!(at(-2, 500_000_000).to_string(), "-1.500000000");
    assert_eq!(at(1_700_000_000, 5).to_string(), "1700000000.000000005");
}

#[test]
fn what_datasync_wrote_is_read() {
    let fsx = [
        ("file-permissions", "0100600"),
        ("file-owner", "501"),
        ("file-group", "20"),
        ("file-mtime", "1595002920000000007ns"),
        ("file-atime", "1595002921000000000ns"),
    ];
    let found = of(&fsx);
    assert_eq!((found.kind, found.mode, found.uid, found.gid), (Kind::File, 0o600, 501, 20));
    assert_eq!((found.mtime, found.atime), (at(1_595_002_920, 7), at(1_595_002_921, 0)));
    let found = of(&[fsx.as_slice(), &[("mode", "33188"), ("uid", "7")]].concat());
    assert_eq!((found.mode, found.uid, found.gid), (0o644, 7, 20));
}

#[test]
fn what_s3fs_wrote_is_read() {
    let found = of(&[("xattr", "%7B%22user.a%22%3A%22aGVsbG8%3D%22%2C%22user.b%22%3A%22%22%7D")]);
    assert_eq!(found.xattrs["user.a"], b"hello");
    assert_eq!(found.xattrs["user.b"], b"");
    for odd in ["", "{", "%7B%7D", "%FF", "[]", "{\"a\":1}", "{\"a\":\"?\"}"] {
        assert!(of(&[("xattr", odd)]).xattrs.is_empty(), "{odd}");
    }
}

#[test]
fn extended_attributes_have_room_like_on_ext4() {
    let now = at(5, 0);
    let found = of(&[]);
    let set = found.xattr_changes("user.a", Some(b"x"), now).unwrap();
    assert_eq!(set[attribute::CTIME].as_deref(), Some("5.000000000"));
    let text = set[attribute::XATTR].clone().unwrap();
    let full = of(&[("xattr", &text)]);
    assert_eq!(full.xattrs["user.a"], b"x");
    assert_eq!(full.xattr_changes("user.a", None, now).unwrap()[attribute::XATTR], None);
    assert_eq!(found.xattr_changes("user.a", None, now), Err(Errno::ENODATA));
    assert_eq!(found.xattr_changes("user.a", Some(&[0; 4000]), now), Err(Errno::ENOSPC));
    assert!(found.xattr_changes("user.a", Some(&[0; 2900]), now).is_ok());
    assert_eq!(found.xattr_changes(&"a".repeat(256), Some(b""), now), Err(Errno::ERANGE));
}

#[test]
fn only_what_changes_is_written() {
    let changes = Changes { mode: Some(0o100_600), ..Changes::default() };
    assert!(changes.is_of_metadata() && !Changes { size: Some(1), ..Changes::default() }.is_of_metadata());
    let before = of(&[("mode", "41471")]);
    let set = changes.metadata(&before, at(9, 0));
    assert_eq!(set["mode"].as_deref(), Some("41344"));
    assert_eq!(set["ctime"].as_deref(), Some("9.000000000"));
    assert_eq!(set.len(), 2);
    let changes = Changes { uid: Some(5), mtime: Some(at(3, 0)), ctime: Some(at(4, 0)), ..Changes::default() };
    let set: Vec<_> = changes.metadata(&before, at(9, 0)).into_values().flatten().collect();
    assert_eq!(set, ["4.000000000", "3.000000000", "5"]);
}

fn any_time() -> impl Strategy<Value = Time> {
    (prop_oneof![any::<i64>(), -5i64..5], 0..1_000_000_000u32).prop_map(|(seconds, nanos)| at(seconds, nanos))
}

fn any_kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(vec![
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::Fifo,
        Kind::CharDevice,
        Kind::BlockDevice,
        Kind::Socket,
    ])
}

prop_compose! {
    fn any_attributes()(
        kind in any_kind(),
        mode in 0..=PERMISSIONS,
        owner in any::<(u32, u32)>(),
        rdev in any::<u32>(),
        times in (any_time(), any_time(), any_time()),
        xattrs in proptest::collection::btree_map(".{0,20}", proptest::collection::vec(any::<u8>(), 0..50), 0..4),
    ) -> Attributes {
        let (atime, mtime, ctime) = times;
        let rdev = if kind.is_device() { rdev } else { 0 };
        Attributes { kind, mode, uid: owner.0, gid: owner.1, rdev, atime, mtime, ctime, xattrs }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(attributes in any_attributes()) {
        let node = Node { metadata: attributes.metadata(), ..Node::default() };
        let directory = attributes.kind == Kind::Directory;
        prop_assert_eq!(Attributes::of(&node, directory, &Defaults::of(1, 1)), attributes);
    }

    #[test]
    fn metadata_is_plain_ascii(attributes in any_attributes()) {
        for (name, value) in attributes.metadata() {
            prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic()), "{name}: {value}");
        }
    }

    #[test]
    fn no_metadata_makes_it_panic(
        values in proptest::collection::vec("[-+.0-9a-fxonsTZ:%{}\"=]{0,30}|\\PC{0,20}", 10),
        modified_ms in any::<u64>(),
        directory in any::<bool>(),
    ) {
        let names = [
            "mode", "uid", "gid", "mtime", "ctime", "atime", "xattr", "rdev", "file-permissions", "file-mtime",
        ];
        let metadata = names.into_iter().map(str::to_owned).zip(values).collect();
        let node = Node { metadata, modified_ms, ..Node::default() };
        let found = Attributes::of(&node, directory, &Defaults::of(0, 0));
        prop_assert!(found.mode <= PERMISSIONS && found.mtime.nanos < 1_000_000_000);
        let system: SystemTime = found.mtime.into();
        let _ = Time::from(system);
    }
}
