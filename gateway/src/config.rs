//! Settings: one table, four sources.
//!
//! Precedence: flag, environment, TOML file, default. Every secret may also come from a file (`*_FILE`), which is where it
//! belongs. A name that the table does not know is refused, in the file as on the command line. `docs/configuration.md` is
//! generated from the table.
//!
//! A setting of a part that is not built: naming it is an error; where its default would start something, `notices` says that
//! nothing starts.

pub mod credentials;
pub mod secret;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::secret::Secret;
pub use self::table::{SETTINGS, Setting, configuration_markdown};
use crate::api::gate::keys::Credentials;
use crate::cluster::peer::trust::SECRET_CHARS_MIN;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Environment(String),
    /// The TOML file.
    File,
    /// The table.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File => f.write_str("configuration file"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why settings are refused. All of it is the caller's to mend: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that a setting names cannot be read.
    #[error("cannot read {path}, named by {named_by}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The setting.
        named_by: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is no TOML.
    #[error("{path} is not valid TOML")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// The configuration file has names that do not exist.
    #[error("{path} sets what does not exist: {}", names.join(", "))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The names.
        names: Vec<String>,
    },
    /// A value has the wrong form.
    #[error("{name} from the {origin}: {reason}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// Its source.
        origin: Origin,
        /// What is wrong; never the value of a secret.
        reason: String,
    },
    /// The setting's part is not built.
    #[error("{name} from the {origin}: {part} is not built yet")]
    NotBuilt {
        /// The setting.
        name: &'static str,
        /// Its source.
        origin: Origin,
        /// What it would configure.
        part: &'static str,
    },
    /// Two settings that need each other.
    #[error("{0}")]
    Together(&'static str),
}

/// Text values by setting, before they are understood.
#[derive(Debug, Default)]
pub struct Sources {
    /// Flags given, by setting name.
    pub flags: HashMap<&'static str, String>,
    /// The environment.
    pub environment: HashMap<String, String>,
    /// The file's path and table.
    pub file: Option<(PathBuf, toml::Table)>,
}

impl Sources {
    /// Flags, the process's environment, and the file that `--config` or `HOLDFAST_CONFIG` names.
    ///
    /// # Errors
    /// [`Error`] when that file cannot be read, is no TOML, or names what does not exist.
    pub fn gather(flags: HashMap<&'static str, String>, environment: HashMap<String, String>) -> Result<Self, Error> {
        let named = flags.get("config").or_else(|| environment.get("HOLDFAST_CONFIG"));
        let file = named.map(|path| read_file(Path::new(path))).transpose()?;
        Ok(Self { flags, environment, file })
    }

    /// Without what only the nodes of a cluster need among themselves: a command that works alone does not look at it.
    #[must_use]
    pub fn alone(mut self) -> Self {
        let of_cluster =
            ["cluster", "cluster_secret", "peer_listen", "peer_advertise", "discovery", "bootstrap_expect"];
        for setting in SETTINGS.iter().filter(|setting| of_cluster.contains(&setting.name)) {
            self.flags.remove(setting.name);
            self.environment.remove(setting.environment);
            self.environment.remove(&format!("{}_FILE", setting.environment));
            if let Some((_, table)) = &mut self.file {
                table.remove(setting.name);
                table.remove(&format!("{}_file", setting.name));
            }
        }
        self
    }

    /// The value of a setting and where it came from; `None` when only a default could give it and there is none.
    fn value(&self, setting: &'static Setting) -> Result<Option<(String, Origin)>, Error> {
        if let Some(text) = self.flags.get(setting.name) {
            return Ok(Some((text.clone(), Origin::Flag)));
        }
        for name in std::iter::once(&setting.environment).chain(setting.aliases) {
            let origin = || Origin::Environment((*name).to_owned());
            let direct = self.environment.get(*name).map(|text| (text.clone(), origin()));
            let from_file = self.environment.get(&format!("{name}_FILE")).filter(|_| setting.secret);
            match (direct, from_file) {
                (Some(_), Some(_)) => {
                    let reason = format!("{name} and {name}_FILE exclude each other");
                    return Err(Error::Invalid { name: setting.name, origin: origin(), reason });
                }
                (Some(found), None) => return Ok(Some(found)),
                (None, Some(path)) => return Ok(Some((read_secret(path, &format!("{name}_FILE"))?, origin()))),
                (None, None) => {}
            }
        }
        if let Some(text) = self.in_file(setting)? {
            return Ok(Some((text, Origin::File)));
        }
        Ok((!setting.default.is_empty()).then(|| (setting.default.to_owned(), Origin::Default)))
    }

    fn in_file(&self, setting: &'static Setting) -> Result<Option<String>, Error> {
        let Some((_, table)) = &self.file else { return Ok(None) };
        if let Some(path) = table.get(&format!("{}_file", setting.name)).filter(|_| setting.secret) {
            let path = path.as_str().unwrap_or_default();
            return read_secret(path, &format!("{}_file", setting.name)).map(Some);
        }
        match table.get(setting.name) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text.clone())),
            Some(toml::Value::Integer(number)) => Ok(Some(number.to_string())),
            Some(toml::Value::Boolean(yes)) => Ok(Some(yes.to_string())),
            Some(_) => {
                let reason = "must be a string or a number".to_owned();
                Err(Error::Invalid { name: setting.name, origin: Origin::File, reason })
            }
        }
    }
}

fn read_file(path: &Path) -> Result<(PathBuf, toml::Table), Error> {
    let unread =
        |source| Error::Read { path: path.to_owned(), named_by: "--config or HOLDFAST_CONFIG".to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unread)?;
    let table: toml::Table = toml::from_str(&text).map_err(|source| Error::Toml { path: path.to_owned(), source })?;
    let known = |name: &str| {
        SETTINGS
            .iter()
            .any(|setting| name == setting.name || (setting.secret && name.strip_suffix("_file") == Some(setting.name)))
    };
    let names: Vec<_> = table.keys().filter(|name| !known(name)).cloned().collect();
    if names.is_empty() { Ok((path.to_owned(), table)) } else { Err(Error::Unknown { path: path.to_owned(), names }) }
}

fn read_secret(path: &str, named_by: &str) -> Result<String, Error> {
    let unread = |source| Error::Read { path: path.into(), named_by: named_by.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unread)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The settings of a node's part in a cluster of several.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Name of the cluster.
    pub name: String,
    /// What the certificates of its nodes derive from, at least [`SECRET_CHARS_MIN`] characters.
    pub secret: Secret,
    /// Peer listener.
    pub peer_listen: String,
    /// Where peers reach this node; `None` is the address of an interface.
    pub peer_advertise: Option<String>,
    /// How peers are found.
    pub discovery: String,
    /// Voters of the very first start.
    pub bootstrap_expect: usize,
}

/// Voters of the very first start of a cluster, unless it says otherwise.
const BOOTSTRAP_EXPECT: usize = 3;
/// Most voters that a first start may wait for.
const BOOTSTRAP_EXPECT_MAX: usize = 9;
const CLUSTER_NAME_CHARS_MAX: usize = 63;

/// The settings of a node, understood.
#[derive(Clone, Debug)]
pub struct Config {
    /// S3 and HTTP API.
    pub listen: String,
    /// Node directory.
    pub data: PathBuf,
    /// `file:DIR` or `s3://...`.
    pub backend: String,
    /// Keys of the backend; `None` is the AWS chain.
    pub backend_keys: Option<Credentials>,
    /// Hosts under which buckets are hosts.
    pub domains: Vec<String>,
    /// Root's keys, if they were configured.
    pub root: Option<Credentials>,
    /// Region of the signatures.
    pub region: String,
    /// Memory for hot objects; `None` is a quarter of the machine's, at most 4 GiB.
    pub cache_bytes: Option<u64>,
    /// Objects up to this size travel inside commands.
    pub inline_bytes: u64,
    /// Certificate and key of the listener.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The cluster of several nodes, if it is part of one.
    pub cluster: Option<ClusterSettings>,
    /// How long events are kept, and how many bytes of them.
    pub events_keep: (Duration, u64),
    /// Bytes of entries of one index in the state; past them they move to the backend.
    pub index_head_bytes: u64,
    /// What queries may use.
    pub queries: QuerySettings,
    /// Whether targets of events may be on this machine or its link.
    pub targets_allow_local: bool,
    /// Log filter.
    pub log: String,
    /// What to say at start.
    pub notices: Vec<String>,
    /// Every setting with its source, secrets redacted; for `config show`.
    pub shown: Vec<(&'static str, String, Origin)>,
}

/// What queries may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuerySettings {
    /// Memory of sorts, groups and joins; `None` is a quarter of the machine's, at most 2 GiB.
    pub memory_bytes: Option<u64>,
    /// Bytes that may be spilled.
    pub spill_bytes: u64,
    /// How long one may take.
    pub time_max: Duration,
    /// Bytes of objects that one may read.
    pub scan_bytes: u64,
    /// How many run at once.
    pub concurrent: usize,
}

/// What was overwritten is there for ten minutes, and a query must be done by then.
const QUERY_TIME_MAX: Duration = Duration::from_secs(9 * 60);

impl Config {
    /// Understands the sources.
    ///
    /// # Errors
    /// [`Error`] for the first setting that is wrong.
    pub fn resolve(sources: &Sources) -> Result<Self, Error> {
        let mut values = Values::default();
        for setting in SETTINGS {
            values.add(setting, sources.value(setting)?)?;
        }
        let data = PathBuf::from(values.required("data"));
        let backend = values.text("backend").unwrap_or_else(|| format!("file:{}", data.join("store").display()));
        if !backend.starts_with("file:") && !backend.starts_with("s3://") {
            return Err(values
                .invalid("backend", "must be file:DIR or s3://bucket/prefix?endpoint=URL&region=R&path_style=true"));
        }
        let tls = match (values.text("tls_cert"), values.text("tls_key")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err(Error::Together("tls-cert and tls-key must be given together")),
        };
        let root = values.keys("root_user", "root_password", "root-user and root-password must be given together")?;
        if root.as_ref().is_some_and(|root| root.access_key.len() < 3 || root.access_key.contains(['/', ',', '=', ' ']))
        {
            return Err(
                values.invalid("root_user", "must have at least 3 characters and none of '/', ',', '=' and space")
            );
        }
        if root.as_ref().is_some_and(|root| root.secret_key.expose().len() < 8) {
            return Err(values.invalid("root_password", "must have at least 8 characters"));
        }
        let region = values.required("region");
        if region.parse::<s3s::region::Region>().is_err() {
            return Err(values.invalid("region", "is not a region name"));
        }
        let cluster = values.cluster()?;
        if cluster.is_some() && root.is_none() {
            return Err(Error::Together(
                "a cluster needs root-user and root-password, the same on every node: generated ones would differ",
            ));
        }
        if cluster.is_some() && backend.starts_with("file:") {
            return Err(values.invalid(
                "backend",
                "is a local directory, which the nodes of a cluster cannot share: give --backend s3://bucket/prefix?endpoint=URL",
            ));
        }
        Ok(Self {
            cluster,
            backend_keys: values.keys(
                "backend_access_key_id",
                "backend_secret_access_key",
                "backend-access-key-id and backend-secret-access-key must be given together",
            )?,
            domains: values
                .text("domain")
                .map(|text| text.split(',').map(|d| d.trim().to_owned()).collect())
                .unwrap_or_default(),
            cache_bytes: values.bytes("cache_bytes")?,
            inline_bytes: values.bytes("inline_bytes")?.unwrap_or(0),
            events_keep: values.events_keep()?,
            index_head_bytes: values.bytes("index_head_bytes")?.unwrap_or_default(),
            queries: values.queries()?,
            targets_allow_local: values.boolean("targets_allow_local")?,
            listen: values.required("listen"),
            log: values.required("log"),
            data,
            backend,
            root,
            region,
            tls,
            notices: values.notices,
            shown: values.shown,
        })
    }
}

#[derive(Default)]
struct Values {
    found: HashMap<&'static str, (String, Origin)>,
    notices: Vec<String>,
    shown: Vec<(&'static str, String, Origin)>,
}

impl Values {
    fn add(&mut self, setting: &'static Setting, value: Option<(String, Origin)>) -> Result<(), Error> {
        let Some((text, origin)) = value else {
            self.shown.push((setting.name, String::new(), Origin::Default));
            return Ok(());
        };
        if let Some(part) = setting.unbuilt {
            if origin != Origin::Default {
                return Err(Error::NotBuilt { name: setting.name, origin, part });
            }
            if setting.default_on {
                self.notices.push(format!("{part} is not built yet: {} = {text} has no effect", setting.name));
            }
        }
        if let Origin::Environment(name) = &origin
            && name != setting.environment
        {
            self.notices.push(format!("{name} is used as {}", setting.environment));
        }
        let shown = if setting.secret { "[redacted]".to_owned() } else { text.clone() };
        self.shown.push((setting.name, shown, origin.clone()));
        self.found.insert(setting.name, (text, origin));
        Ok(())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.found.get(name).map(|(text, _)| text.clone()).filter(|text| !text.is_empty())
    }

    fn required(&self, name: &'static str) -> String {
        self.text(name).unwrap_or_else(|| default_of(name).to_owned())
    }

    fn boolean(&self, name: &'static str) -> Result<bool, Error> {
        match self.text(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(self.invalid(name, "is true or false")),
        }
    }

    fn bytes(&self, name: &'static str) -> Result<Option<u64>, Error> {
        self.text(name)
            .map(|text| {
                parse_bytes(&text).ok_or_else(|| self.invalid(name, "is not a size such as 65536, 64KiB or 4GiB"))
            })
            .transpose()
    }

    fn keys(
        &self,
        key: &'static str,
        secret: &'static str,
        together: &'static str,
    ) -> Result<Option<Credentials>, Error> {
        match (self.text(key), self.text(secret)) {
            (Some(access_key), Some(secret)) => Ok(Some(Credentials { access_key, secret_key: Secret::new(secret) })),
            (None, None) => Ok(None),
            _ => Err(Error::Together(together)),
        }
    }

    fn cluster(&self) -> Result<Option<ClusterSettings>, Error> {
        let Some(name) = self.text("cluster") else {
            let stray = ["cluster_secret", "peer_advertise", "bootstrap_expect"];
            let stray = stray.into_iter().find(|name| self.text(name).is_some());
            return match stray {
                // One voter is what a node without a cluster is.
                Some("bootstrap_expect") if self.text("bootstrap_expect").as_deref() == Some("1") => Ok(None),
                Some(name) => Err(self.invalid(name, "needs --cluster NAME")),
                None => Ok(None),
            };
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.len() > CLUSTER_NAME_CHARS_MAX || !name.chars().all(plain) {
            return Err(self.invalid("cluster", "must be at most 63 letters, digits, '-' and '_'"));
        }
        let secret = self.text("cluster_secret").unwrap_or_default();
        if secret.chars().count() < SECRET_CHARS_MIN {
            let reason = format!(
                "must have at least {SECRET_CHARS_MIN} characters, the same on every node: `holdfast cluster secret` prints one"
            );
            return Err(self.invalid("cluster_secret", &reason));
        }
        let expect = self.text("bootstrap_expect").map_or(Ok(BOOTSTRAP_EXPECT), |text| text.parse().map_err(|_| ()));
        let bootstrap_expect = expect
            .ok()
            .filter(|count| (1..=BOOTSTRAP_EXPECT_MAX).contains(count))
            .ok_or_else(|| self.invalid("bootstrap_expect", "must be a number from 1 to 9"))?;
        Ok(Some(ClusterSettings {
            name,
            secret: Secret::new(secret),
            peer_listen: self.required("peer_listen"),
            peer_advertise: self.text("peer_advertise"),
            discovery: self.required("discovery"),
            bootstrap_expect,
        }))
    }

    fn invalid(&self, name: &'static str, reason: &str) -> Error {
        let origin = self.found.get(name).map_or(Origin::Default, |(_, origin)| origin.clone());
        Error::Invalid { name, origin, reason: reason.to_owned() }
    }

    fn events_keep(&self) -> Result<(Duration, u64), Error> {
        parse_keep(&self.required("events_keep"))
            .ok_or_else(|| self.invalid("events_keep", "must be a duration and a size, such as 24h,1GiB"))
    }

    fn queries(&self) -> Result<QuerySettings, Error> {
        let time = crate::clock::seconds_or_duration(&self.required("query_time")).map(Duration::from_millis);
        let time_max = time
            .filter(|time| !time.is_zero() && *time <= QUERY_TIME_MAX)
            .ok_or_else(|| self.invalid("query_time", "must be a duration of at most 9 minutes, such as 5m"))?;
        let concurrent = self.required("query_concurrency").parse().ok().filter(|count| (1..=1000).contains(count));
        Ok(QuerySettings {
            memory_bytes: self.bytes("query_memory")?,
            spill_bytes: self.bytes("query_spill")?.unwrap_or_default(),
            time_max,
            scan_bytes: self.bytes("query_scan")?.unwrap_or_default(),
            concurrent: concurrent
                .ok_or_else(|| self.invalid("query_concurrency", "must be a number from 1 to 1,000"))?,
        })
    }
}

fn default_of(name: &str) -> &'static str {
    SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default)
}

/// A duration and a size, such as `24h,1GiB`; either may be left out, and is then as by default.
#[must_use]
pub fn parse_keep(text: &str) -> Option<(Duration, u64)> {
    const DEFAULT: (Duration, u64) = (Duration::from_secs(24 * 60 * 60), 1 << 30);
    let mut keep = DEFAULT;
    let mut seen = (false, false);
    for word in text.split(',').map(str::trim) {
        if let Some(ms) = crate::clock::parse_duration(word).filter(|_| !seen.0) {
            (keep.0, seen.0) = (Duration::from_millis(ms), true);
        } else if let Some(bytes) = parse_bytes(word).filter(|_| !seen.1) {
            (keep.1, seen.1) = (bytes, true);
        } else {
            return None;
        }
    }
    Some(keep)
}

/// A size: a number with `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024), `KB`, `MB`, `GB`, `TB` (powers of 1000), `B` or nothing.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests;
