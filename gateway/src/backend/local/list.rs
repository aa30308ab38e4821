//! Listing a tree of directories in the byte order of whole names.
//!
//! A directory sorts as its name with a slash: `a.b` comes before everything under `a/`. Each pass over a directory keeps the
//! smallest names only, so memory is bounded however many files a directory holds.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;

use cap_std::fs::{Dir, DirEntry};

use super::super::path::RESERVED_SEGMENT;
use super::super::{Entry, ListOptions, ObjectPath, Page, Result};
use super::store::{Store, io_error};

/// Names of one directory that are kept in memory at once.
const CHILDREN_MAX: usize = 4096;

pub(super) fn page(store: &Store, options: &ListOptions) -> Result<Page> {
    let after = options.start_after.as_ref().map_or("", |after| after.as_str());
    let mut listing = Listing { store, options, after, page: Page::default(), is_cut: false };
    let top = options.prefix.rsplit_once('/').map_or("", |(top, _)| top);
    listing.descend(top).map_err(|error| io_error("list", &options.prefix, error))?;
    if listing.is_cut {
        listing.page.next = listing.page.entries.last().map(|entry| entry.path.clone());
    }
    Ok(listing.page)
}

struct Listing<'a> {
    store: &'a Store,
    options: &'a ListOptions,
    after: &'a str,
    page: Page,
    /// The page is full and there may be more.
    is_cut: bool,
}

/// A file, or a directory with a slash at the end of its path.
#[derive(PartialEq, Eq)]
struct Child {
    path: String,
    name: String,
}

impl Child {
    fn is_directory(&self) -> bool {
        self.path.ends_with('/')
    }
}

impl Ord for Child {
    fn cmp(&self, other: &Self) -> Ordering {
        self.path.cmp(&other.path)
    }
}

impl PartialOrd for Child {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Listing<'_> {
    fn descend(&mut self, directory: &str) -> io::Result<()> {
        let mut done_until = String::new();
        loop {
            let opened = match directory {
                "" => self.store.root.try_clone(),
                _ => self.store.root.open_dir(directory),
            };
            let opened = match opened {
                // It was removed since we saw it, or never was there.
                Err(error) if is_gone(&error) => return Ok(()),
                opened => opened?,
            };
            let (children, is_complete) = self.children(&opened, directory, &done_until)?;
            for child in &children {
                if self.page.entries.len() == self.options.limit {
                    self.is_cut = true;
                    return Ok(());
                }
                match child.is_directory() {
                    true => self.descend(child.path.trim_end_matches('/'))?,
                    false => self.add(&opened, child)?,
                }
                if self.is_cut {
                    return Ok(());
                }
            }
            match children.into_iter().next_back() {
                Some(last) if !is_complete => done_until = last.path,
                _ => return Ok(()),
            }
        }
    }

    /// The next children in order, and whether these are all.
    fn children(&self, opened: &Dir, directory: &str, done_until: &str) -> io::Result<(Vec<Child>, bool)> {
        let mut smallest = BinaryHeap::new();
        let mut is_complete = true;
        for entry in opened.entries()? {
            let entry = entry?;
            let Some(child) = child_of(directory, &entry)? else { continue };
            if child.path.as_str() <= done_until || !self.is_wanted(&child) {
                continue;
            }
            smallest.push(child);
            if smallest.len() > CHILDREN_MAX {
                smallest.pop();
                is_complete = false;
            }
        }
        Ok((smallest.into_sorted_vec(), is_complete))
    }

    /// Whether a child is, or may contain, a name that belongs on this page.
    fn is_wanted(&self, child: &Child) -> bool {
        let (path, prefix) = (child.path.as_str(), self.options.prefix.as_str());
        if child.is_directory() {
            (path.starts_with(prefix) || prefix.starts_with(path))
                && (path > self.after || self.after.starts_with(path))
        } else {
            path.starts_with(prefix) && path > self.after
        }
    }

    fn add(&mut self, opened: &Dir, child: &Child) -> io::Result<()> {
        let metadata = match opened.symlink_metadata(&child.name) {
            Err(error) if is_gone(&error) => return Ok(()),
            metadata => metadata?,
        };
        // A file with a name that no put accepts is not ours.
        let Ok(path) = ObjectPath::new(&child.path) else { return Ok(()) };
        let last_modified = metadata.modified()?.into_std();
        self.page.entries.push(Entry { path, length: metadata.len(), last_modified });
        Ok(())
    }
}

/// What a directory entry is to a listing; `None` for what cannot be a blob.
fn child_of(directory: &str, entry: &DirEntry) -> io::Result<Option<Child>> {
    let Ok(name) = entry.file_name().into_string() else { return Ok(None) };
    if directory.is_empty() && name == RESERVED_SEGMENT {
        return Ok(None);
    }
    let mut kind = entry.file_type()?;
    if !kind.is_file() && !kind.is_dir() && !kind.is_symlink() {
        // Not every file system tells the kind while a directory is read.
        kind = match entry.metadata() {
            Err(error) if is_gone(&error) => return Ok(None),
            metadata => metadata?.file_type(),
        };
    }
    let slash = if kind.is_dir() { "/" } else { "" };
    if !kind.is_file() && !kind.is_dir() {
        return Ok(None);
    }
    let path = match directory {
        "" => format!("{name}{slash}"),
        _ => format!("{directory}/{name}{slash}"),
    };
    Ok(Some(Child { path, name }))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)
}
