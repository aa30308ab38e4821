//! What a step names, and what it is: files, directories, and files without a name.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::id::{BucketId, Millis, ObjectKey};
use crate::keyspace::{Keyspace, key};
use crate::kv::KeyRange;
use crate::mount::{IMPLICIT, MountId, Node, Orphan};
use crate::record::{Body, NameRow, Version};
use crate::rules::links;
use crate::state::{Reader, Stop};

use crate::command::mount::FileRef;

/// Most bytes of a file's user metadata, names and values.
pub(crate) const METADATA_BYTES_MAX: usize = 64 << 10;

/// A name with its version.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) key: ObjectKey,
    pub(crate) name: NameRow,
    pub(crate) version: Version,
}

/// What a step names.
#[derive(Clone, Debug)]
pub(crate) enum File {
    /// A file, or a directory with a marker.
    Named(Box<Named>),
    /// A file without a name.
    Orphan(Box<Orphan>),
}

impl File {
    pub(crate) fn version(&self) -> &Version {
        match self {
            Self::Named(named) => &named.version,
            Self::Orphan(orphan) => &orphan.version,
        }
    }

    pub(crate) fn modified_ms(&self) -> Millis {
        match self {
            Self::Named(named) => named.name.modified_ms,
            Self::Orphan(orphan) => orphan.modified_ms,
        }
    }

    /// As the mount sees it.
    pub(crate) fn node(&self, reader: Reader<'_>) -> Result<Node, Stop> {
        let key = match self {
            Self::Named(named) => Some(&named.key),
            Self::Orphan(_) => None,
        };
        let version = self.version();
        let hole_bytes = match version.body {
            Body::Empty => 0,
            Body::Single(extent) if extent.is_hole() => extent.length,
            Body::Single(_) => 0,
            Body::Pages(id) => reader.content(id)?.and_then(|row| row.hole_bytes).unwrap_or_default(),
        };
        let links = if key.is_some() { links::count(reader, version.object)? } else { 0 };
        Ok(Node {
            key: key.cloned(),
            object: version.object,
            size: version.size,
            links,
            metadata: version.attributes.metadata.clone(),
            modified_ms: self.modified_ms(),
            created_ms: version.created_ms,
            generation: version.generation(),
            etag: version.etag.clone(),
            content_type: version.attributes.headers.content_type.clone(),
            allocated: version.size.saturating_sub(hole_bytes),
        })
    }
}

/// A directory that only its entries make.
pub(crate) fn implicit(key: Option<ObjectKey>) -> Node {
    Node { key, object: IMPLICIT, links: 1, ..Node::default() }
}

/// The object of a key.
pub(crate) fn named(reader: Reader<'_>, bucket: BucketId, object: &ObjectKey) -> Result<Option<Named>, Stop> {
    let Some(name) = reader.name(bucket, object)? else { return Ok(None) };
    let row = reader.history(bucket, object, name.place)?;
    let version = row.and_then(|row| row.version);
    Ok(version.map(|version| Named { key: object.clone(), name, version }))
}

/// What a step names, when it is still there. A file without a name is found by the client that holds it; by any when
/// `client` is none. A directory that was only implicit when the client saw it may have a marker by now.
pub(crate) fn find(
    reader: Reader<'_>,
    bucket: BucketId,
    client: Option<MountId>,
    file: &FileRef,
) -> Result<File, Stop> {
    let Some(object) = &file.key else {
        let orphan = reader
            .orphan(file.object)?
            .filter(|orphan| orphan.bucket == bucket && client.is_none_or(|client| client == orphan.client));
        return Ok(File::Orphan(Box::new(orphan.ok_or(Error::NoSuchKey)?)));
    };
    let named = named(reader, bucket, object)?.ok_or(Error::NoSuchKey)?;
    let any = is_directory(object) && file.object == IMPLICIT;
    if !any && named.version.object != file.object {
        return Err(Error::Changed.into());
    }
    Ok(File::Named(Box::new(named)))
}

pub(crate) fn is_directory(object: &ObjectKey) -> bool {
    object.as_str().ends_with('/')
}

/// The key of a directory, or of a file, without the slash at the end.
pub(crate) fn path(object: &ObjectKey) -> &str {
    let text = object.as_str();
    text.strip_suffix('/').unwrap_or(text)
}

/// The key of the directory that holds a file or directory; none in the root.
pub(crate) fn parent(object: &ObjectKey) -> Option<&str> {
    let path = path(object);
    path.rfind('/').map(|at| &path[..=at])
}

/// Whether keys begin with `prefix`.
pub(crate) fn any_under(reader: Reader<'_>, bucket: BucketId, prefix: &str) -> Result<bool, Stop> {
    reader.any(Keyspace::Names, &key::name(bucket, prefix))
}

/// Whether a directory has entries: keys under its own.
pub(crate) fn has_entries(reader: Reader<'_>, bucket: BucketId, directory: &str) -> Result<bool, Stop> {
    let own = key::name(bucket, directory);
    let mut from = own.clone();
    from.push(0);
    let range = KeyRange::prefix_from(&own, from);
    Ok(reader.rows(Keyspace::Names, range).next().transpose()?.is_some())
}

/// Whether a file has this key.
pub(crate) fn is_file(reader: Reader<'_>, bucket: BucketId, path: &str) -> Result<bool, Stop> {
    Ok(reader.0.get(Keyspace::Names, &key::name(bucket, path))?.is_some())
}

/// Whether a file or directory has the name of `object`.
pub(crate) fn exists(reader: Reader<'_>, bucket: BucketId, object: &ObjectKey) -> Result<bool, Stop> {
    let path = path(object);
    Ok(is_file(reader, bucket, path)? || any_under(reader, bucket, &format!("{path}/"))?)
}

/// What keeps something from being made under this name: a form that no path has, or a parent that is missing.
pub(crate) fn check_new(reader: Reader<'_>, bucket: BucketId, object: &ObjectKey) -> Result<(), Stop> {
    if path(object).split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::invalid("a name in a directory is not empty, \".\" or \"..\"").into());
    }
    let Some(parent) = parent(object) else { return Ok(()) };
    if any_under(reader, bucket, parent)? {
        return Ok(());
    }
    let file = is_file(reader, bucket, &parent[..parent.len() - 1])?;
    Err(if file { Error::NotDirectory } else { Error::NoSuchKey }.into())
}

/// Sets and removes metadata.
pub(crate) fn apply_metadata(
    metadata: &mut BTreeMap<String, String>,
    set: &BTreeMap<String, Option<String>>,
) -> Result<(), Error> {
    for (name, value) in set {
        match value {
            Some(value) => {
                check_attribute(name, value)?;
                metadata.insert(name.clone(), value.clone());
            }
            None => {
                metadata.remove(name);
            }
        }
    }
    check_bytes(metadata)
}

/// Metadata of something new.
pub(crate) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    metadata.iter().try_for_each(|(name, value)| check_attribute(name, value))?;
    check_bytes(metadata)
}

/// Metadata are headers of S3's replies. Source: RFC 9110, sections 5.1 and 5.5.
fn check_attribute(name: &str, value: &str) -> Result<(), Error> {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(Error::invalid("the name of an attribute is one that a header has, in lower case"));
    }
    check_header_value(value)
}

pub(crate) fn check_header_value(value: &str) -> Result<(), Error> {
    match value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(Error::invalid("the value of an attribute is visible ASCII text")),
    }
}

fn check_bytes(metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(Error::invalid("the metadata of a file has at most 65,536 bytes"));
    }
    Ok(())
}
