//! The rules and stored formats of Holdfast: what a command does to the state, and what a reader finds in it.
//!
//! The crate is a function and its data. Nothing here opens a file, a socket, a thread or a clock (`clippy.toml` and the
//! dependency list see to it), so the same log gives the same bytes on every node, and a test of a year of history runs in
//! a second.
//!
//! ```text
//!            Command ──────────┐                                  ┌── Reply      to whoever proposed
//!   stamped by its proposer:   ▼                                  ├── Effect     hints to jobs, may be lost
//!   time, ids, random bits   apply(view, revision, command) ──────┴── Batch      rows, one atomic commit
//!                              │  rules: bucket object rename multipart content lock maintain
//!                              ▼
//!   View ── find list versions uploads parts queues ──▶ rows of 19 keyspaces (kv) ──▶ any ordered key-value engine
//!     ▲
//!   Permit ◀── authorize(caller, action, resource)
//! ```
//!
//! # A tour
//!
//! - [`id`]: identifiers and names, parsed once at the edge. [`path`]: what a blob is called in the backend.
//! - [`command`]: every mutation and its reply; [`error`]: every refusal. Both are stored for ever: new variants only.
//! - [`record`]: what rows hold. [`keyspace`]: how their keys are ordered. `docs/formats.md` specifies both for strangers.
//! - [`kv`]: the seam to an engine, with one in memory and the suite that every engine passes. [`snapshot`]: a whole state
//!   as a stream.
//! - [`apply`]: one command on one view. [`rules`]: what each does, and who may ask ([`rules::authorize`]).
//! - [`state`]: typed point reads. [`view`]: versions and where their bytes are. [`list`]: listings by seeking. [`resume`]:
//!   reads that outlive their view. [`queue`]: what waits for jobs. [`lock`]: locks, leases, ephemeral keys. [`range`]: ranges of files that are locked. [`event`]: what
//!   each commit tells. [`notify`]: where that goes. [`topic`]: messages, and groups that consume them. [`mount`]: files
//!   and directories, as a mount sees objects.
//!
//! A write in one breath: bytes are uploaded under a [`id::BlobId`] that nobody else has; a [`command::Op::PutObject`] names
//! them; [`apply::apply`] decides the conditions, adds a row of history, moves the name to it and counts the blob's
//! references, in one batch. What lost its last reference is condemned by the same batch and deleted later.
//!
//! # Invariants
//!
//! Each is checked by a test under `core/tests`; the model test checks 3 to 9 after random commands.
//!
//! 1. `apply` is deterministic: replaying a log gives equal bytes, one by one, in chunks, or from a snapshot.
//! 2. A command applied twice changes nothing and gives its first reply; an older one is refused as expired.
//! 3. A refusal writes nothing but its reply.
//! 4. `names` has a row exactly when the newest row of a key that has not ended is a version.
//! 5. A blob's references are the extents that name it; at none it is condemned or gone, and no command may name it again
//!    until it is too old to be named at all.
//! 6. A content's references are the versions and contents that hold it, and no page or boundary outlives its content.
//!    Contents of one object form a line: only the newest is ever changed, and in place only while nothing else holds it.
//! 7. Rows of history that have ended stay for the bucket's window; a read at a revision inside it is exact, and one that
//!    cannot be is refused or says which revision it shows.
//! 8. Every queue names exactly what is to be done; when everything is deleted and its time is over, only bookkeeping is
//!    left.
//! 9. A listing reads about as many rows as it gives, whatever a delimiter hides.
//! 10. A stored number never changes meaning. An unknown field is skipped, an unknown variant refused.
//! 11. No number and no byte string that a stranger sends makes a panic: the answer is a refusal.
//! 12. Work of a command is bounded by constants in [`rules`].

#![warn(missing_docs)]

pub mod apply;
pub mod command;
pub mod effect;
pub mod error;
pub mod event;
pub mod id;
pub mod index;
pub mod keyspace;
pub mod kv;
pub mod list;
pub mod lock;
pub mod mount;
pub mod notify;
pub mod path;
pub mod queue;
pub mod range;
pub mod record;
pub mod resume;
pub mod rules;
pub mod snapshot;
pub mod state;
pub mod topic;
pub mod view;
