//! Names that a file system takes and an object store may not: each is made, found under exactly that name, renamed and removed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::{Ground, Report};

/// The longest name in bytes that Linux passes on.
const NAME_BYTES: usize = 255;
const PLAIN: &[&str] = &[
    "plain",
    " leading and trailing ",
    ".hidden",
    "..almost",
    "...",
    "a b  c",
    "new\nline",
    "tab\tand\rreturn",
    "%2F",
    "%",
    "%%",
    "a%00b",
    "100%.txt",
    "a+b=c&d;e?f#g",
    "quotes\"'`",
    "back\\slash",
    "<xml>&amp;",
    "star*[glob]{x}~",
    "-rf",
    "$HOME",
    "COM1",
    "a:b|c",
    "dot.",
    "\u{1}\u{7f}control",
    // One letter, composed and not: two names.
    "\u{e9}",
    "e\u{301}",
    "日本語",
    "Ελληνικά",
    "עברית",
    "😀🎉",
    "\u{200b}\u{feff}",
    "\u{fffd}",
    "name",
    "NAME",
    "0",
    "00",
];

/// Each name as a file and as a directory; all at once in one directory as well.
///
/// # Errors
/// With the first name that is not kept.
pub fn run(dir: &Path, _effort: u32) -> Result<Report> {
    let mut ground = Ground::new(dir, "names")?;
    let names = names();
    let (files, folders) = (ground.join("files"), ground.join("folders"));
    for parent in [&files, &folders] {
        std::fs::create_dir(parent)?;
    }
    for name in &names {
        let content = name.as_bytes();
        std::fs::write(files.join(name), content).with_context(|| format!("{name:?}"))?;
        std::fs::create_dir(folders.join(name)).with_context(|| format!("{name:?} as a directory"))?;
        std::fs::write(folders.join(name).join(name), content).with_context(|| format!("{name:?} twice"))?;
    }
    ensure!(listed(&files)? == names, "{}", difference(&listed(&files)?, &names));
    ensure!(listed(&folders)? == names, "{}", difference(&listed(&folders)?, &names));
    for name in &names {
        one(&files, &folders, name).with_context(|| format!("{name:?}"))?;
    }
    ensure!(listed(&files)?.is_empty() && listed(&folders)?.is_empty(), "something is left");
    too_long(&files)?;
    ground.figure("names", f64::from(u32::try_from(names.len())?));
    Ok(ground.finish())
}

fn names() -> BTreeSet<OsString> {
    let mut names: BTreeSet<OsString> = PLAIN.iter().map(OsString::from).collect();
    names.insert("x".repeat(NAME_BYTES).into());
    // 85 letters of three bytes.
    names.insert("語".repeat(NAME_BYTES / 3).into());
    // Multiplied by an escape for each byte this is the longest that a key must hold.
    names.insert("%".repeat(NAME_BYTES).into());
    // Every byte but the two that no name may hold, in pieces that are valid UTF-8 and one that is not.
    names.insert((1..=127).filter(|byte| *byte != b'/').map(char::from).collect::<String>().into());
    names
}

/// Names that are no UTF-8. A mount that cannot keep them must say so (`EILSEQ` or `EINVAL`), and make nothing.
///
/// # Errors
/// When such a name is changed on the way.
pub fn not_utf8(dir: &Path) -> Result<()> {
    for bytes in [&b"latin\xe9"[..], b"\xff\xfe", b"\xed\xa0\x80surrogate", b"cut\xe6\x97"] {
        let name = OsString::from_vec(bytes.to_vec());
        let before = listed(dir)?;
        match std::fs::write(dir.join(&name), bytes) {
            Ok(()) => {
                ensure!(listed(dir)?.contains(&name), "{name:?} is listed as another name");
                ensure!(std::fs::read(dir.join(&name))? == bytes, "{name:?} has another content");
                std::fs::remove_file(dir.join(&name))?;
            }
            Err(error) => {
                let known = [Errno::ILSEQ, Errno::INVAL].map(Errno::raw_os_error);
                ensure!(error.raw_os_error().is_some_and(|code| known.contains(&code)), "{name:?}: {error}");
            }
        }
        ensure!(listed(dir)? == before, "{name:?} left something behind");
    }
    Ok(())
}

fn one(files: &Path, folders: &Path, name: &OsStr) -> Result<()> {
    let file = files.join(name);
    ensure!(std::fs::read(&file)? == name.as_bytes(), "another content");
    ensure!(std::fs::read(folders.join(name).join(name))? == name.as_bytes(), "another content below");
    let aside = files.join("aside");
    std::fs::rename(&file, &aside)?;
    ensure!(std::fs::symlink_metadata(&file).is_err(), "it is still there after a rename");
    std::fs::rename(&aside, &file)?;
    std::os::unix::fs::symlink(name, &aside)?;
    ensure!(std::fs::read_link(&aside)?.as_os_str() == name, "a link points elsewhere");
    ensure!(std::fs::read(&aside)? == name.as_bytes(), "a link leads elsewhere");
    std::fs::remove_file(&aside)?;
    std::fs::remove_file(&file)?;
    std::fs::remove_file(folders.join(name).join(name))?;
    std::fs::remove_dir(folders.join(name))?;
    Ok(())
}

fn too_long(dir: &Path) -> Result<()> {
    let name = "x".repeat(NAME_BYTES + 1);
    let error = std::fs::write(dir.join(name), b"x").err().context("a name of 256 bytes was taken")?;
    ensure!(error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error()), "a name of 256 bytes: {error}");
    Ok(())
}

/// The names in `dir`.
///
/// # Errors
/// When it cannot be read, or lists a name twice.
pub fn listed(dir: &Path) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        ensure!(names.insert(name.clone()), "{name:?} is listed twice");
    }
    Ok(names)
}

fn difference(have: &BTreeSet<OsString>, want: &BTreeSet<OsString>) -> String {
    let missing: Vec<_> = want.difference(have).collect();
    let extra: Vec<_> = have.difference(want).collect();
    format!("missing {missing:?}, extra {extra:?}")
}
