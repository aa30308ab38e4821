//! Names of tables: which objects `"bucket/prefix/"`, `"bucket/a*.csv"` or `s3://bucket/key` stand for.

use super::error::Error;

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 2048;

/// The objects that a table consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) keys: Keys,
}

/// Which keys of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// All that begin with this: empty, or with a slash at its end.
    Prefix(String),
    /// All that match.
    Glob(Glob),
    /// This one; without such an object, all under it as a directory.
    Named(String),
}

impl Place {
    /// The objects that a name stands for.
    ///
    /// # Errors
    /// `InvalidSql` when it names no bucket, or is too long.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > NAME_BYTES_MAX {
            return Err(Error::sql(format!("a table's name has at most {NAME_BYTES_MAX} bytes")));
        }
        let path = text.strip_prefix("s3://").unwrap_or(text);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() || bucket.contains(['*', '?', ':']) {
            return Err(Error::sql(format!("{text:?} names no bucket: a table is written \"bucket/prefix/\"")));
        }
        let keys = if key.is_empty() || (key.ends_with('/') && !key.contains(['*', '?'])) {
            Keys::Prefix(key.to_owned())
        } else if key.contains(['*', '?']) {
            Keys::Glob(Glob::new(key))
        } else {
            Keys::Named(key.to_owned())
        };
        Ok(Self { bucket: bucket.to_owned(), keys })
    }

    /// What the keys begin with.
    pub(super) fn prefix(&self) -> &str {
        match &self.keys {
            Keys::Prefix(prefix) => prefix,
            Keys::Glob(glob) => glob.prefix(),
            Keys::Named(key) => key,
        }
    }

    pub(super) fn holds(&self, key: &str) -> bool {
        match &self.keys {
            Keys::Prefix(prefix) => key.starts_with(prefix),
            Keys::Glob(glob) => glob.matches(key),
            Keys::Named(name) => key == name,
        }
    }
}

impl Keys {
    /// As it is written.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Prefix(text) | Self::Named(text) => text,
            Self::Glob(glob) => &glob.text,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.bucket, self.keys.text())
    }
}

/// A pattern of keys: `?` is one character and `*` any number of them, but for slashes; `**` is any number of any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Char(char),
    One,
    Many,
    Deep,
}

impl Glob {
    fn new(text: &str) -> Self {
        let mut parts = Vec::new();
        for char in text.chars() {
            match (char, parts.last()) {
                ('*', Some(Part::Many | Part::Deep)) => {
                    parts.pop();
                    parts.push(Part::Deep);
                }
                ('*', _) => parts.push(Part::Many),
                ('?', _) => parts.push(Part::One),
                (char, _) => parts.push(Part::Char(char)),
            }
        }
        Self { text: text.to_owned(), parts }
    }

    /// What stands before the first wildcard.
    fn prefix(&self) -> &str {
        self.text.split(['*', '?']).next().unwrap_or_default()
    }

    /// Runs all ways through the pattern at once, so that its cost is the product of both lengths at most.
    fn matches(&self, key: &str) -> bool {
        let Some(rest) = key.strip_prefix(self.prefix()) else { return false };
        let parts = &self.parts[self.prefix().chars().count()..];
        let mut reached = vec![false; parts.len() + 1];
        reached[0] = true;
        skip_stars(parts, &mut reached);
        for char in rest.chars() {
            let mut next = vec![false; parts.len() + 1];
            for (at, part) in parts.iter().enumerate().filter(|(at, _)| reached[*at]) {
                match part {
                    Part::Char(wanted) => next[at + 1] |= *wanted == char,
                    Part::One => next[at + 1] |= char != '/',
                    Part::Many => next[at] |= char != '/',
                    Part::Deep => next[at] = true,
                }
            }
            skip_stars(parts, &mut next);
            reached = next;
        }
        reached[parts.len()]
    }
}

/// A star also matches nothing.
fn skip_stars(parts: &[Part], reached: &mut [bool]) {
    for (at, part) in parts.iter().enumerate() {
        if reached[at] && matches!(part, Part::Many | Part::Deep) {
            reached[at + 1] = true;
        }
    }
}

/// The directories `name=value` of a key, in order; the last part of a key is never one.
pub(super) fn hive_parts(key: &str) -> impl Iterator<Item = (&str, &str)> {
    let directories = key.rsplit_once('/').map_or("", |(directories, _)| directories);
    directories.split('/').filter_map(|part| part.split_once('=')).filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_objects() {
        let check = |text: &str, bucket: &str, keys: Keys| {
            assert_eq!(Place::parse(text).unwrap(), Place { bucket: bucket.to_owned(), keys }, "{text}");
        };
        check("bucket", "bucket", Keys::Prefix(String::new()));
        check("bucket/", "bucket", Keys::Prefix(String::new()));
        check("bucket/a/b/", "bucket", Keys::Prefix("a/b/".to_owned()));
        check("s3://bucket/a.csv", "bucket", Keys::Named("a.csv".to_owned()));
        check("s3://bucket/a*.csv", "bucket", Keys::Glob(Glob::new("a*.csv")));
        for text in ["", "/a", "s3://", "*/a", "file:///etc/passwd", "http://example.com/a.csv"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_glob_matches_keys() {
        let check =
            |glob: &str, key: &str, expected| assert_eq!(Glob::new(glob).matches(key), expected, "{glob} {key}");
        check("a*.csv", "a.csv", true);
        check("a*.csv", "ab/c.csv", false);
        check("a/**.csv", "a/b/c.csv", true);
        check("a/**/c.csv", "a/b/d/c.csv", true);
        check("a/*/c.csv", "a/b/c.csv", true);
        check("a/*/c.csv", "a/b/d/c.csv", false);
        check("a?c", "abc", true);
        check("a?c", "a/c", false);
        check("*", "b", true);
        check("*a*b*c", "xxaxxbxxc", true);
        check("*a*b*c", "xxaxxbxx", false);
        check("å*", "ågren", true);
    }

    #[test]
    fn hive_directories_are_read_from_a_key() {
        let parts: Vec<_> = hive_parts("x/year=2024/city=a=b/=1/part=0.csv").collect();
        assert_eq!(parts, [("year", "2024"), ("city", "a=b")]);
        assert_eq!(hive_parts("year=2024").count(), 0);
    }
}
