//! What is measured. Adding a scenario is adding a row to [`all`].

use serde::Serialize;

/// Names in the bucket of a listing, unless a run asks for fewer.
pub const LIST_OBJECTS: u64 = 100_000;
/// Keys that one listing gives.
pub const LIST_KEYS: u64 = 1000;
/// Objects that GET, HEAD and the mixed load choose from, so few that every server has them in memory.
const HOT_OBJECTS: u64 = 256;
/// Objects that are read in the scenarios of 64 MiB.
const BIG_OBJECTS: u64 = 4;
/// Objects that one round of DELETE removes.
const DELETES: u64 = 1000;

const KIB_4: usize = 4 << 10;
const MIB_8: usize = 8 << 20;
const MIB_64: usize = 64 << 20;

/// What one operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Stores an object under a new name.
    Put { bytes: usize },
    /// Reads one of `objects` whole, at random.
    Get { bytes: usize, objects: u64 },
    /// Asks for the metadata of one of `objects`, at random.
    Head { bytes: usize, objects: u64 },
    /// Lists 1,000 keys from a random name on; no delimiter.
    ListPage,
    /// Lists the 1,000 keys of a random folder, with a delimiter.
    ListFolder,
    /// Removes an object. Each round brings its own.
    Delete { bytes: usize },
    /// Stores an object by a multipart upload: create, parts one after the other, complete.
    Multipart { parts: usize, part_bytes: usize },
    /// Reads one of `objects`, or in `writes` of 100 cases stores one under a new name.
    Mixed { bytes: usize, objects: u64, writes: u64 },
}

/// One row of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    pub name: &'static str,
    /// One line for a reader.
    pub what: &'static str,
    pub clients: usize,
    /// Whether bodies are sent with their SHA-256, which the server must verify; else `UNSIGNED-PAYLOAD`.
    pub signed: bool,
    /// A round ends after this many operations, if its time is not over before.
    pub ops_max: Option<u64>,
    #[serde(skip)]
    pub work: Work,
}

impl Scenario {
    /// Most bytes that a round writes, where that is much.
    #[must_use]
    pub fn round_bytes_max(&self) -> u64 {
        let bytes = match self.work {
            Work::Put { bytes } => bytes,
            Work::Multipart { parts, part_bytes } => parts * part_bytes,
            _ => 0,
        };
        self.ops_max.unwrap_or(0) * bytes as u64
    }

    /// Whether rounds leave work to the disk that could run into the next round.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self.work, Work::Get { .. } | Work::Head { .. } | Work::ListPage | Work::ListFolder)
    }
}

/// All scenarios, in the order in which they run. Listings come first, so that memory after their objects were loaded
/// tells of these objects and nothing else.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let row = |name, what, clients, work| Scenario { name, what, clients, signed: true, ops_max: None, work };
    let most = |ops, row: Scenario| Scenario { ops_max: Some(ops), ..row };
    let put = Work::Put { bytes: KIB_4 };
    let get = Work::Get { bytes: KIB_4, objects: HOT_OBJECTS };
    let head = Work::Head { bytes: KIB_4, objects: HOT_OBJECTS };
    let put_big = Work::Put { bytes: MIB_64 };
    let get_big = Work::Get { bytes: MIB_64, objects: BIG_OBJECTS };
    let mixed = Work::Mixed { bytes: KIB_4, objects: HOT_OBJECTS, writes: 20 };
    let multipart = Work::Multipart { parts: 8, part_bytes: MIB_8 };
    vec![
        row("list-page", "LIST of 1,000 keys from a random name on, among all", 1, Work::ListPage),
        row("list-folder", "LIST of a folder's 1,000 keys, among all, with delimiter", 1, Work::ListFolder),
        row("put-4k-c1", "PUT 4 KiB, new names, 1 client", 1, put),
        row("put-4k-c16", "PUT 4 KiB, new names, 16 clients", 16, put),
        row("get-4k-c1", "GET 4 KiB, hot, 1 client", 1, get),
        row("get-4k-c16", "GET 4 KiB, hot, 16 clients", 16, get),
        row("head-c1", "HEAD, 1 client", 1, head),
        row("head-c16", "HEAD, 16 clients", 16, head),
        row("mixed-4k-c16", "4 GET : 1 PUT of 4 KiB, 16 clients", 16, mixed),
        most(DELETES, row("delete-c16", "DELETE of 4 KiB objects, 16 clients", 16, Work::Delete { bytes: KIB_4 })),
        most(8, row("put-64m-c1", "PUT 64 MiB, 1 client", 1, put_big)),
        most(16, row("put-64m-c4", "PUT 64 MiB, 4 clients", 4, put_big)),
        most(
            8,
            Scenario {
                signed: false,
                ..row("put-64m-unsigned", "PUT 64 MiB, payload not signed, 1 client", 1, put_big)
            },
        ),
        most(8, row("multipart-64m", "multipart of 8 parts of 8 MiB in sequence, 1 client", 1, multipart)),
        row("get-64m-c1", "GET 64 MiB, 1 client", 1, get_big),
        row("get-64m-c4", "GET 64 MiB, 4 clients", 4, get_big),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn what_writes_much_has_a_bound() {
        for scenario in all() {
            let big = matches!(scenario.work, Work::Put { bytes: MIB_64 } | Work::Multipart { .. });
            assert_eq!(big, scenario.round_bytes_max() > 0, "{}", scenario.name);
        }
    }
}
