//! Attributes of files, as user metadata of objects.
//!
//! What is written has the form of s3fs: `mode` with its type bits, `uid`, `gid` and `rdev` decimal, times as seconds with
//! nine digits of fraction, extended attributes as a percent-encoded JSON object of base64 values. Read are, besides, octal
//! and hexadecimal modes, the times of rclone (a decimal number, RFC 3339), and the `file-permissions`, `file-owner`,
//! `file-group`, `file-mtime` and `file-atime` of FSx and DataSync; s3fs's own names win. What is absent or cannot be read
//! has the mount's default, and the time that S3 tells.
//!
//! A time is a decimal number: `-1.5` is a second and a half before 1970. Nothing here panics, whatever the metadata is.
//! Unknown bits of a mode are dropped, and so is an extended attribute whose value is not base64.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use holdfast_core::id::Millis;
use holdfast_core::mount::{Node, attribute};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::Errno;

#[cfg(test)]
mod tests;

/// Most bytes of the names and values of a file's extended attributes: about what a block of ext4 has for them. More is
/// `ENOSPC`.
pub const XATTR_BYTES_MAX: usize = 4_000;
/// Longest name of an extended attribute. Source: Linux, XATTR_NAME_MAX.
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Permissions, and the bits of set-user-id, set-group-id and sticky.
const PERMISSIONS: u32 = 0o7777;
const TYPE: u32 = 0o170_000;
const NANOS: i128 = 1_000_000_000;
/// What s3fs leaves as it is in the text of extended attributes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Written with padding, as s3fs does; read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link: its target is the object's body.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Socket.
    Socket,
}

impl Kind {
    /// Its bits of a mode. Source: POSIX, sys/stat.h; numbers of Linux.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Socket => 0o140_000,
        }
    }

    /// The kind of a whole mode; none when its type bits are none.
    #[must_use]
    pub fn of_mode(mode: u32) -> Option<Self> {
        [Self::File, Self::Directory, Self::Symlink, Self::Fifo, Self::CharDevice, Self::BlockDevice, Self::Socket]
            .into_iter()
            .find(|kind| kind.bits() == mode & TYPE)
    }

    fn is_device(self) -> bool {
        matches!(self, Self::CharDevice | Self::BlockDevice)
    }
}

/// A moment, before or after 1970. `nanos` count forward from `seconds`, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Below a thousand million.
    pub nanos: u32,
}

impl Time {
    /// Now, by this machine's clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// A moment of the repository.
    #[must_use]
    pub fn from_millis(ms: Millis) -> Self {
        Self::from_nanos(i128::from(ms) * 1_000_000).unwrap_or_default()
    }

    /// The moment that a text means: a decimal number of seconds, one of nanoseconds that ends with `ns`, or RFC 3339.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(nanos) = text.strip_suffix("ns") {
            return digits(nanos).then(|| nanos.parse().ok()).flatten().and_then(Self::from_nanos);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !digits(whole) || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            return Self::from_nanos(moment.unix_timestamp_nanos());
        }
        let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
        let nanos = nanos.fold(0, |sum: i128, digit| sum * 10 + i128::from(digit - b'0'));
        let seconds = i128::from(whole.parse::<i64>().ok()?);
        Self::from_nanos(seconds * NANOS + if whole.starts_with('-') { -nanos } else { nanos })
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn as_nanos(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }

    fn from_nanos(nanos: i128) -> Option<Self> {
        let seconds = i64::try_from(nanos.div_euclid(NANOS)).ok()?;
        Some(Self { seconds, nanos: u32::try_from(nanos.rem_euclid(NANOS)).ok()? })
    }
}

/// Digits, after a minus sign if need be: no plus sign, which `parse` of numbers would take.
fn digits(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl From<SystemTime> for Time {
    fn from(at: SystemTime) -> Self {
        let nanos = match at.duration_since(UNIX_EPOCH) {
            Ok(since) => i128::try_from(since.as_nanos()),
            Err(before) => i128::try_from(before.duration().as_nanos()).map(|nanos| -nanos),
        };
        nanos.ok().and_then(Self::from_nanos).unwrap_or_default()
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let fraction = std::time::Duration::from_nanos(time.nanos.into());
        let seconds = std::time::Duration::from_secs(time.seconds.unsigned_abs());
        let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
        whole.and_then(|whole| whole.checked_add(fraction)).unwrap_or(UNIX_EPOCH)
    }
}

/// `seconds.nanoseconds`, nine digits after the point.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.as_nanos();
        let sign = if nanos < 0 { "-" } else { "" };
        let nanos = nanos.unsigned_abs();
        write!(f, "{sign}{}.{:09}", nanos / NANOS.unsigned_abs(), nanos % NANOS.unsigned_abs())
    }
}

/// Attributes of what has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions of files.
    pub file_mode: u32,
    /// Permissions of directories.
    pub directory_mode: u32,
}

impl Defaults {
    /// Of an owner, with the usual permissions: 0644 and 0755.
    #[must_use]
    pub fn of(uid: u32, gid: u32) -> Self {
        Self { uid, gid, file_mode: 0o644, directory_mode: 0o755 }
    }
}

/// Attributes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Type.
    pub kind: Kind,
    /// Permissions: twelve bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a device: which.
    pub rdev: u32,
    /// Last read.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Attributes {
    /// The attributes of a node. What is a directory the key decides, not the mode: it is one to everybody else.
    #[must_use]
    pub fn of(node: &Node, is_directory: bool, defaults: &Defaults) -> Self {
        let text = |names: [&str; 2]| names.iter().find_map(|name| node.metadata.get(*name)).map(|text| text.trim());
        let number = |names| text(names).and_then(|text| text.parse().ok());
        let time = |names| text(names).and_then(Time::parse);
        let mode = node.metadata.get(attribute::MODE).and_then(|text| mode_of(text));
        let mode = mode.or_else(|| u32::from_str_radix(node.metadata.get("file-permissions")?.trim(), 8).ok());
        let kind = match mode.and_then(Kind::of_mode) {
            _ if is_directory => Kind::Directory,
            None | Some(Kind::Directory) => Kind::File,
            Some(kind) => kind,
        };
        let permissions = match kind {
            Kind::Directory => defaults.directory_mode,
            Kind::Symlink => 0o777,
            Kind::File | Kind::Fifo | Kind::CharDevice | Kind::BlockDevice | Kind::Socket => defaults.file_mode,
        };
        let modified = Time::from_millis(node.modified_ms);
        let mtime = time([attribute::MTIME, "file-mtime"]).unwrap_or(modified);
        Self {
            kind,
            mode: mode.unwrap_or(permissions) & PERMISSIONS,
            uid: number([attribute::UID, "file-owner"]).unwrap_or(defaults.uid),
            gid: number([attribute::GID, "file-group"]).unwrap_or(defaults.gid),
            rdev: number([attribute::RDEV; 2]).filter(|_| kind.is_device()).unwrap_or(0),
            atime: time([attribute::ATIME, "file-atime"]).unwrap_or(mtime),
            mtime,
            ctime: time([attribute::CTIME; 2]).unwrap_or(modified),
            xattrs: node.metadata.get(attribute::XATTR).and_then(|text| xattrs_of(text)).unwrap_or_default(),
        }
    }

    /// Of a new file, whose times are `now`.
    #[must_use]
    pub fn new(kind: Kind, mode: u32, owner: (u32, u32), now: Time) -> Self {
        let (uid, gid) = owner;
        let mode = mode & PERMISSIONS;
        Self { kind, mode, uid, gid, rdev: 0, atime: now, mtime: now, ctime: now, xattrs: BTreeMap::new() }
    }

    /// The metadata that says all of it.
    #[must_use]
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from(
            [
                (attribute::MODE, mode_text(self.kind, self.mode)),
                (attribute::UID, self.uid.to_string()),
                (attribute::GID, self.gid.to_string()),
                (attribute::ATIME, self.atime.to_string()),
                (attribute::MTIME, self.mtime.to_string()),
                (attribute::CTIME, self.ctime.to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        if self.kind.is_device() {
            all.insert(attribute::RDEV.to_owned(), self.rdev.to_string());
        }
        if !self.xattrs.is_empty() {
            all.insert(attribute::XATTR.to_owned(), xattrs_text(&self.xattrs));
        }
        all
    }

    /// The change of metadata that sets an extended attribute, or removes it.
    ///
    /// # Errors
    /// `ENODATA` when there is none to remove, `ERANGE` for a name that is too long, `ENOSPC` when all would have more than
    /// [`XATTR_BYTES_MAX`] bytes.
    pub fn xattr_changes(
        &self,
        name: &str,
        value: Option<&[u8]>,
        now: Time,
    ) -> Result<BTreeMap<String, Option<String>>, Errno> {
        if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX {
            return Err(Errno::ERANGE);
        }
        let mut xattrs = self.xattrs.clone();
        match value {
            Some(value) => drop(xattrs.insert(name.to_owned(), value.to_vec())),
            None => drop(xattrs.remove(name).ok_or(Errno::ENODATA)?),
        }
        // What is too long already may become shorter.
        let bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if value.is_some() && bytes > XATTR_BYTES_MAX {
            return Err(Errno::ENOSPC);
        }
        let text = (!xattrs.is_empty()).then(|| xattrs_text(&xattrs));
        let mut set = time_changes(None, Some(now));
        set.insert(attribute::XATTR.to_owned(), text);
        Ok(set)
    }
}

/// What `setattr` changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permissions; type bits are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes of the file: no metadata.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<Time>,
    /// Last change of content.
    pub mtime: Option<Time>,
    /// Last change of attributes, as a kernel that keeps it says; else it is the time of the change.
    pub ctime: Option<Time>,
}

impl Changes {
    /// Whether anything but the size changes.
    #[must_use]
    pub fn is_of_metadata(&self) -> bool {
        *self != Self { size: self.size, ..Self::default() }
    }

    /// Whether a file that has `current` stays as it is.
    #[must_use]
    pub fn leaves(&self, current: &Attributes) -> bool {
        let same = |new: Option<u32>, now: u32| new.is_none_or(|new| new == now);
        same(self.mode.map(|mode| mode & PERMISSIONS), current.mode)
            && same(self.uid, current.uid)
            && same(self.gid, current.gid)
            && self.size.is_none()
            && self.atime.is_none()
            && self.mtime.is_none()
    }

    /// The change of metadata of a file that has `current`.
    #[must_use]
    pub fn metadata(&self, current: &Attributes, now: Time) -> BTreeMap<String, Option<String>> {
        let mut set = time_changes(self.mtime, Some(self.ctime.unwrap_or(now)));
        let fields = [
            (attribute::MODE, self.mode.map(|mode| mode_text(current.kind, mode))),
            (attribute::UID, self.uid.map(|uid| uid.to_string())),
            (attribute::GID, self.gid.map(|gid| gid.to_string())),
            (attribute::ATIME, self.atime.map(|atime| atime.to_string())),
        ];
        for (name, value) in fields {
            if value.is_some() {
                set.insert(name.to_owned(), value);
            }
        }
        set
    }
}

/// The change of metadata that sets times.
#[must_use]
pub fn time_changes(mtime: Option<Time>, ctime: Option<Time>) -> BTreeMap<String, Option<String>> {
    let times = [(attribute::MTIME, mtime), (attribute::CTIME, ctime)];
    let set = times.into_iter().filter_map(|(name, time)| Some((name.to_owned(), Some(time?.to_string()))));
    set.collect()
}

/// The metadata of directories that come to be because something is made in them.
#[must_use]
pub fn directory_metadata(defaults: &Defaults, now: Time) -> BTreeMap<String, String> {
    Attributes::new(Kind::Directory, defaults.directory_mode, (defaults.uid, defaults.gid), now).metadata()
}

/// Decimal, as s3fs writes it; octal after a zero or `0o`, hexadecimal after `0x`.
fn mode_of(text: &str) -> Option<u32> {
    let text = text.trim();
    let (digits, base) = match text.strip_prefix('0') {
        None | Some("") => (text, 10),
        Some(rest) => match rest.split_at_checked(1) {
            Some(("o" | "O", digits)) => (digits, 8),
            Some(("x" | "X", digits)) => (digits, 16),
            _ => (rest, 8),
        },
    };
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, base).ok() }
}

fn mode_text(kind: Kind, mode: u32) -> String {
    (kind.bits() | mode & PERMISSIONS).to_string()
}

fn xattrs_of(text: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let json = percent_decode_str(text).decode_utf8().ok()?;
    let values: BTreeMap<String, serde_json::Value> = serde_json::from_str(&json).ok()?;
    let values = values.into_iter().filter_map(|(name, value)| Some((name, BASE64.decode(value.as_str()?).ok()?)));
    Some(values.collect())
}

fn xattrs_text(xattrs: &BTreeMap<String, Vec<u8>>) -> String {
    let values = xattrs.iter().map(|(name, value)| (name.clone(), BASE64.encode(value).into()));
    let json = serde_json::Value::Object(values.collect()).to_string();
    utf8_percent_encode(&json, ESCAPED).to_string()
}
