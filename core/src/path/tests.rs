use proptest::prelude::*;

use super::*;

const ID: &str = "0000000100000000000000000000002a";

fn id() -> BlobId {
    ID.parse().unwrap()
}

fn path_of(key: &str) -> String {
    blob_path(&"photos".parse().unwrap(), &key.parse().unwrap(), id())
}

#[test]
fn the_key_stays_readable_with_its_extension() {
    let check = |key: &str, expected: &str| {
        let expected = format!("partitions/photos/{}", expected.replace("ID", ID));
        assert_eq!(path_of(key), expected, "{key:?}");
        assert_eq!(parse_blob_path(&expected), Some(("photos".parse().unwrap(), id())), "{key:?}");
    };
    check("2024/cat.jpg", "2024/cat.ID.jpg");
    check("a/b", "a/b.ID");
    check("a", "a.ID");
    check("archive.tar.gz", "archive.tar.ID.gz");
    check("grüße/日本 1.txt", "grüße/日本 1.ID.txt");
    check("dir/", "dir/%.ID");
    check("/", "%/%.ID");
    check("a//b", "a/%/b.ID");
    check("./../...", "%2E/%2E%2E/%2E.%2E.ID");
    check(".bashrc", "%2Ebashrc.ID");
    check(".git/config.json", "%2Egit/config.ID.json");
    check("end.", "end%2E.ID");
    check("end ", "end%20.ID");
    check("100%", "100%25.ID");
    check("%2F", "%252F.ID");
    check("a\\b:c\u{7}", "a%5Cb%3Ac%07.ID");
    check("\u{85}\u{ffff}", "%C2%85%EF%BF%BF.ID");
    check("v.not an ext", "v.not an ext.ID");
    check("v.0123456789abcdef", "v.ID.0123456789abcdef");
    check("v.0123456789abcdefg", "v.0123456789abcdefg.ID");
    check(".long/x", "%2Elong/x.ID");
    check("%", "%25.ID");
}

#[test]
fn what_reads_as_a_blobs_name_is_escaped() {
    let hex = "d41d8cd98f00b204e9800998ecf8427e";
    let check = |key: String, expected: String| assert_eq!(path_of(&key), format!("partitions/photos/{expected}"));
    check(format!("a.{hex}/b"), format!("a%2E{hex}/b.{ID}"));
    check(format!("a.{hex}.txt/b"), format!("a%2E{hex}.txt/b.{ID}"));
    check(format!("a.{}/b", hex.to_uppercase()), format!("a%2E{}/b.{ID}", hex.to_uppercase()));
    check(format!("a.{hex}"), format!("a%2E{hex}.{ID}"));
    check(format!("a.{hex}.txt"), format!("a%2E{hex}.{ID}.txt"));
    check(format!("{hex}/{hex}"), format!("{hex}/{hex}.{ID}"));
    check(format!(".{hex}/b"), format!("%2E{hex}/b.{ID}"));
}

#[test]
fn what_does_not_fit_has_the_long_form() {
    assert_eq!(path_of(&format!("{}.txt", "x".repeat(200))), format!("partitions/photos/{}.{ID}.txt", "x".repeat(200)));
    let long = format!("partitions/photos/.long/{ID}.txt");
    assert_eq!(path_of(&format!("{}.txt", "x".repeat(201))), long);
    assert_eq!(path_of(&format!("{}/a.txt", "é".repeat(101))), long);
    assert_eq!(path_of(&format!("{}a.txt", "abc/".repeat(250))), long);
    assert_eq!(path_of(&"/".repeat(1024)), format!("partitions/photos/.long/{ID}"));
    assert_eq!(parse_blob_path(&long), Some(("photos".parse().unwrap(), id())));
}

#[test]
fn foreign_names_are_not_ours() {
    let foreign = [
        "partitions/photos/cat.jpg".to_owned(),
        format!("partitions/photos/{ID}"),
        format!("partitions/photos/{ID}.jpg"),
        format!("partitions/photos/cat.{}", ID.to_uppercase()),
        format!("partitions/photos/cat.{ID}.a b"),
        format!("partitions/photos/cat.{ID}.jpg.bak"),
        format!("partitions/photos/a//cat.{ID}.jpg"),
        format!("partitions/photos/.hidden.{ID}.jpg"),
        format!("partitions/photos/c%61t.{ID}.jpg"),
        format!("partitions/photos/c%2ft.{ID}.jpg"),
        format!("partitions/photos/a%/cat.{ID}.jpg"),
        format!("partitions/photos/x.{ID}/cat.{ID}.jpg"),
        format!("partitions/photos/.packs/{ID}"),
        format!("partitions/photos/.long/x/{ID}"),
        format!("partitions/photos/.long/{ID}."),
        format!("partitions/Photos/cat.{ID}.jpg"),
        format!("partitions/{ID}.jpg"),
        format!("metadata/photos/cat.{ID}.jpg"),
    ];
    for name in foreign {
        assert_eq!(parse_blob_path(&name), None, "{name}");
    }
}

#[test]
fn a_sibling_has_the_same_name_and_another_id() {
    let other = BlobId::new(7, 8, [9; 6]);
    let key: ObjectKey = format!("a/{ID}/b.{ID}.tar.gz").parse().unwrap();
    let bucket = "photos".parse().unwrap();
    let sibling = sibling_path(&blob_path(&bucket, &key, id()), other);
    assert_eq!(sibling, Some(blob_path(&bucket, &key, other)));
    let long = "x/".repeat(500).parse().unwrap();
    assert_eq!(sibling_path(&blob_path(&bucket, &long, id()), other), Some(blob_path(&bucket, &long, other)));
    assert_eq!(sibling_path("partitions/photos/cat.jpg", other), None);
}

/// Keys with a leaning to what is special here.
fn keys() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(ID.to_owned()),
        Just("/".to_owned()),
        Just(".".to_owned()),
        Just("%".to_owned()),
        Just(" ".to_owned()),
        "[a-z]{1,8}",
        "\\PC{0,12}",
        any::<char>().prop_map(|c| c.to_string()),
        "[x]{60,250}",
    ];
    proptest::collection::vec(piece, 1..24)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("a key has 1 to 1,024 bytes", |key| !key.is_empty() && key.len() <= 1024)
}

fn ids() -> impl Strategy<Value = BlobId> {
    prop_oneof![Just(id()), any::<[u8; 16]>().prop_map(BlobId)]
}

proptest! {
    #[test]
    fn names_come_back_and_keep_the_limits(key in keys(), blob in ids()) {
        let bucket: BucketName = "photos".parse().unwrap();
        let path = blob_path(&bucket, &key.parse().unwrap(), blob);
        prop_assert_eq!(parse_blob_path(&path), Some((bucket, blob)));
        prop_assert!(path.len() <= PATH_BYTES_MAX);
        for segment in path.split('/') {
            prop_assert!(!matches!(segment, "" | "." | ".."), "{}", path);
            prop_assert!(segment.len() <= 250, "{}", path);
            prop_assert!(!segment.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')), "{}", path);
        }
    }

    #[test]
    fn no_directory_is_a_file_of_another_key(one in keys(), below in keys(), a in ids(), b in ids()) {
        // The second key is placed right under the first blob's own file name, the worst that a client can do.
        let bucket: BucketName = "photos".parse().unwrap();
        let file = blob_path(&bucket, &one.parse().unwrap(), a);
        let hostile = format!("{}/{below}", file.strip_prefix("partitions/photos/").unwrap());
        for key in [format!("{one}/{below}"), hostile] {
            let Ok(key) = key.parse() else { continue };
            let other = blob_path(&bucket, &key, b);
            let lower = other.to_lowercase();
            prop_assert!(!lower.starts_with(&format!("{}/", file.to_lowercase())), "{} {}", file, other);
        }
    }

    #[test]
    fn different_keys_have_different_names(one in keys(), two in keys()) {
        let bucket: BucketName = "photos".parse().unwrap();
        let names = [&one, &two].map(|key| blob_path(&bucket, &key.parse().unwrap(), id()));
        let long = names.iter().all(|name| name.contains("/.long/"));
        prop_assert!(one == two || long || names[0] != names[1]);
    }

    #[test]
    fn parsing_never_panics_and_accepts_only_what_is_made(text in "\\PC{0,60}", tail in "\\PC{0,8}") {
        for name in [format!("partitions/photos/{text}.{ID}{tail}"), format!("partitions/photos/.long/{ID}{tail}"), text] {
            if let Some((bucket, blob)) = parse_blob_path(&name) {
                let (start, id) = (format!("partitions/{bucket}/"), blob.to_string());
                prop_assert!(name.starts_with(&start) && name.contains(&id));
            }
        }
    }
}
