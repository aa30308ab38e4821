//! Steps of keys, and the names that the mount shows for them.
//!
//! Most steps are shown as they are. Some cannot be: the empty one (`a//b`), `.`, `..`, one with a zero byte, one of more
//! than 255 bytes; and a file whose name a directory has, too (`a` and `a/b`), is shown beside it. Those names are escaped,
//! never hidden, and never lead out of their directory:
//!
//! ```text
//! <text>%.holdfast        a step that cannot be shown as it is; in <text> `%`, zero and the dots of `.` and `..` are %XX
//! <text>%file.holdfast    the file, where a directory has the name
//! <start>%<hash>.holdfast one that would be too long: 32 digits of its SHA-256; found by listing only
//! ```
//!
//! A plain name that has a `%` and ends with `.holdfast` is escaped, too, so that no two steps are shown alike: with that,
//! [`show`] is injective, and [`parse`] is its inverse. Names of this form that [`show`] never gives are refused, as files of
//! them would be shown otherwise. Keys are UTF-8: names that are not are refused with `EILSEQ`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;

use aws_lc_rs::digest;

use crate::error::Errno;

/// Longest name. Source: Linux, NAME_MAX.
pub const NAME_BYTES_MAX: usize = 255;

const MARK: char = '%';
const END: &str = ".holdfast";
const FILE: &str = "file";
const HASH_DIGITS: usize = 32;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The step of the key, without slashes. Meaningless when the name is shortened.
    pub text: String,
    /// The file, where a directory has the name, too.
    pub alias: bool,
    /// Only a listing tells what it stands for: the entry that is shown so.
    pub is_shortened: bool,
    /// As the process gave it.
    pub shown: OsString,
}

/// The name of a step of a key. `alias`: it is a file, and a directory has the same text.
#[must_use]
pub fn show(text: &str, alias: bool) -> OsString {
    shown(text, alias).into()
}

/// What a name that a process gave stands for.
///
/// # Errors
/// `EILSEQ` when it is not UTF-8, `ENAMETOOLONG`, `EINVAL` when it is no name, or one of the escaped form that stands for
/// nothing.
pub fn parse(name: &OsStr) -> Result<Name, Errno> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let given = name.to_str().ok_or(Errno::EILSEQ)?;
    if matches!(given, "" | "." | "..") || given.contains(['/', '\0']) {
        return Err(Errno::EINVAL);
    }
    let found = |text: String, alias, is_shortened| Name { text, alias, is_shortened, shown: name.to_owned() };
    if !looks_escaped(given) {
        return Ok(found(given.to_owned(), false, false));
    }
    let (body, tag) = given.strip_suffix(END).and_then(|rest| rest.rsplit_once(MARK)).ok_or(Errno::EINVAL)?;
    if tag.len() == HASH_DIGITS && tag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(found(String::new(), false, true));
    }
    let alias = match tag {
        "" => false,
        FILE => true,
        _ => return Err(Errno::EINVAL),
    };
    let text = unescaped(body).filter(|text| !text.contains('/')).ok_or(Errno::EINVAL)?;
    if shown(&text, alias) != given {
        return Err(Errno::EINVAL);
    }
    Ok(found(text, alias, false))
}

fn shown(text: &str, alias: bool) -> String {
    let odd = matches!(text, "" | "." | "..") || text.contains('\0') || looks_escaped(text);
    let name = match (odd, alias) {
        (false, false) => text.to_owned(),
        (_, false) => format!("{}{MARK}{END}", escaped(text)),
        (_, true) => format!("{}{MARK}{FILE}{END}", escaped(text)),
    };
    if name.len() <= NAME_BYTES_MAX { name } else { shortened(text, alias) }
}

fn looks_escaped(name: &str) -> bool {
    name.ends_with(END) && name.contains(MARK)
}

fn escaped(text: &str) -> String {
    if matches!(text, "." | "..") {
        return text.replace('.', "%2E");
    }
    text.replace('%', "%25").replace('\0', "%00")
}

/// None when it is nothing that [`escaped`] gives.
fn unescaped(body: &str) -> Option<String> {
    let mut pieces = body.split(MARK);
    let mut text = pieces.next()?.to_owned();
    for piece in pieces {
        let code = piece.get(..2)?;
        text.push(match code {
            "25" => '%',
            "00" => '\0',
            "2E" => '.',
            _ => return None,
        });
        text.push_str(piece.get(2..)?);
    }
    Some(text)
}

/// The start is for people; the hash is what tells it from others.
fn shortened(text: &str, alias: bool) -> String {
    const START_BYTES_MAX: usize = NAME_BYTES_MAX - HASH_DIGITS - END.len() - 1;
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[u8::from(alias)]);
    context.update(text.as_bytes());
    let mut name: String = text
        .char_indices()
        .take_while(|(at, character)| at + character.len_utf8() <= START_BYTES_MAX)
        .map(|(_, character)| if matches!(character, MARK | '\0') { '_' } else { character })
        .collect();
    name.push(MARK);
    for byte in &context.finish().as_ref()[..HASH_DIGITS / 2] {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name + END
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, alias: bool, expected: &str) {
        assert_eq!(show(text, alias), expected);
        let name = parse(OsStr::new(expected)).unwrap();
        assert_eq!((name.text.as_str(), name.alias, name.is_shortened), (text, alias, false), "{expected}");
    }

    #[test]
    fn odd_keys_are_shown_escaped() {
        check("report.txt", false, "report.txt");
        check("100%", false, "100%");
        check("a.holdfast", false, "a.holdfast");
        check("", false, "%.holdfast");
        check(".", false, "%2E%.holdfast");
        check("..", false, "%2E%2E%.holdfast");
        check("a\0b", false, "a%00b%.holdfast");
        check("a", true, "a%file.holdfast");
        check("50%", true, "50%25%file.holdfast");
        check("a%file.holdfast", false, "a%25file.holdfast%.holdfast");
        check("%.holdfast", false, "%25.holdfast%.holdfast");
        check("a\\b\n", false, "a\\b\n");
    }

    #[test]
    fn long_steps_are_shortened_and_differ() {
        let (one, other) = (show(&"ä".repeat(200), false), show(&("ä".repeat(199) + "a"), false));
        assert!(one != other && one.len() <= NAME_BYTES_MAX, "{one:?}");
        let name = parse(&one).unwrap();
        assert!(name.is_shortened && name.shown == one);
        assert_ne!(show(&"a".repeat(300), true), show(&"a".repeat(300), false));
        // Short enough by itself, and not with its mark.
        assert!(parse(&show(&"a".repeat(250), true)).unwrap().is_shortened);
        assert_eq!(show(&"a".repeat(255), false).len(), 255);
    }

    #[test]
    fn names_that_stand_for_nothing_are_refused() {
        let bad =
            ["a%.holdfast", "%61%.holdfast", "%2F%.holdfast", "%zz%.holdfast", "a%other.holdfast", "%2e%.holdfast"];
        for bad in bad.into_iter().chain(["", ".", "..", "a/b", "x%2%.holdfast", "%€%.holdfast", "a%2Eb%.holdfast"]) {
            assert_eq!(parse(OsStr::new(bad)), Err(Errno::EINVAL), "{bad}");
        }
        assert_eq!(parse(OsStr::from_bytes(b"\xff")), Err(Errno::EILSEQ));
        assert_eq!(parse(OsStr::new(&"a".repeat(256))), Err(Errno::ENAMETOOLONG));
    }

    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("%".to_owned()),
            Just(".holdfast".to_owned()),
            Just("%file".to_owned()),
            Just("%25".to_owned()),
            Just("%2E".to_owned()),
            Just(".".to_owned()),
            Just("\0".to_owned()),
            Just("0123456789abcdef0123456789abcdef".to_owned()),
            Just("x".repeat(200)),
            "[^/]{0,6}",
        ];
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn whatever_is_shown_is_a_name_and_leads_back(text in any_text(), alias in any::<bool>()) {
            let shown = show(&text, alias);
            prop_assert!(shown.len() <= NAME_BYTES_MAX && !shown.is_empty());
            prop_assert!(shown != "." && shown != "..");
            prop_assert!(!shown.as_bytes().iter().any(|byte| matches!(byte, 0 | b'/')));
            let name = parse(&shown).unwrap();
            prop_assert!(name.is_shortened || (name.text == text && name.alias == alias));
        }

        #[test]
        fn no_two_are_shown_alike(one in (any_text(), any::<bool>()), other in (any_text(), any::<bool>())) {
            prop_assert_eq!(one == other, show(&one.0, one.1) == show(&other.0, other.1));
        }

        #[test]
        fn what_is_parsed_is_shown_as_it_was_given(given in any_text()) {
            if let Ok(name) = parse(OsStr::new(&given))
                && !name.is_shortened
            {
                prop_assert_eq!(show(&name.text, name.alias), OsStr::new(&given));
            }
        }
    }
}
