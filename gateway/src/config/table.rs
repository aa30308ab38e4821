//! The table of settings.

use std::fmt::Write as _;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Name in the file; the flag has dashes for underscores.
    pub name: &'static str,
    /// Whether there is a flag: a secret has none, because others can read a command line.
    pub flag: bool,
    /// Environment variable.
    pub environment: &'static str,
    /// Other variables that are accepted.
    pub aliases: &'static [&'static str],
    /// Default, or empty.
    pub default: &'static str,
    /// Default in words, where it is computed.
    pub default_note: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Never shown; `*_FILE` works too.
    pub secret: bool,
    /// The part that is missing, if its part is not built.
    pub unbuilt: Option<&'static str>,
    /// Whether that part would be on by default.
    pub default_on: bool,
}

const fn setting(
    name: &'static str,
    environment: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting {
        name,
        flag: true,
        environment,
        aliases: &[],
        default,
        default_note: "",
        meaning,
        secret: false,
        unbuilt: None,
        default_on: false,
    }
}

/// Every setting of `serve`.
pub static SETTINGS: &[Setting] = &[
    Setting {
        default_note: "none",
        ..setting("config", "HOLDFAST_CONFIG", "", "TOML file with any of these settings, by name")
    },
    setting("listen", "HOLDFAST_LISTEN", "127.0.0.1:9900", "S3 and HTTP API; port 0 picks one and prints it"),
    setting("data", "HOLDFAST_DATA", "./holdfast-data", "node directory: identity, log, state, cache"),
    Setting {
        default_note: "`file:<data>/store`",
        ..setting(
            "backend",
            "HOLDFAST_BACKEND",
            "",
            "`file:DIR` or `s3://bucket/prefix?endpoint=URL&region=R&path_style=true`",
        )
    },
    Setting {
        flag: false,
        secret: true,
        default_note: "AWS credential chain",
        ..setting("backend_access_key_id", "HOLDFAST_BACKEND_ACCESS_KEY_ID", "", "access key id for the backend")
    },
    Setting {
        flag: false,
        secret: true,
        default_note: "AWS credential chain",
        ..setting(
            "backend_secret_access_key",
            "HOLDFAST_BACKEND_SECRET_ACCESS_KEY",
            "",
            "secret access key for the backend",
        )
    },
    Setting {
        default_note: "none",
        ..setting(
            "domain",
            "HOLDFAST_DOMAIN",
            "",
            "virtual-host-style bucket names under this domain; several separated by `,`",
        )
    },
    Setting {
        flag: false,
        secret: true,
        aliases: &["MINIO_ROOT_USER"],
        default_note: "generated at first start",
        ..setting("root_user", "HOLDFAST_ROOT_USER", "", "access key id of root")
    },
    Setting {
        flag: false,
        secret: true,
        aliases: &["MINIO_ROOT_PASSWORD"],
        default_note: "generated at first start, kept 0600 under data, printed once",
        ..setting(
            "root_password",
            "HOLDFAST_ROOT_PASSWORD",
            "",
            "secret access key of root, at least 8 characters; there is no default one",
        )
    },
    setting("region", "HOLDFAST_REGION", "us-east-1", "region that signatures must name"),
    Setting { default_note: "none: single node", ..setting("cluster", "HOLDFAST_CLUSTER", "", "cluster name") },
    Setting {
        flag: false,
        secret: true,
        default_note: "none",
        ..setting(
            "cluster_secret",
            "HOLDFAST_CLUSTER_SECRET",
            "",
            "at least 32 characters; derives the CA for mutual TLS among peers",
        )
    },
    setting(
        "peer_listen",
        "HOLDFAST_PEER_LISTEN",
        "0.0.0.0:9910",
        "Raft and peer traffic, mutual TLS only; with a cluster",
    ),
    Setting {
        default_note: "interface address",
        ..setting("peer_advertise", "HOLDFAST_PEER_ADVERTISE", "", "where peers reach this node")
    },
    setting(
        "discovery",
        "HOLDFAST_DISCOVERY",
        "mdns",
        "`mdns`, `dns:NAME`, `static:HOST:PORT,...`; several separated by `;`; with a cluster",
    ),
    Setting {
        default_note: "1 without a cluster, else 3",
        ..setting("bootstrap_expect", "HOLDFAST_BOOTSTRAP_EXPECT", "", "voters to wait for at the very first start")
    },
    Setting {
        default_note: "a quarter of memory, at most 4 GiB",
        ..setting("cache_bytes", "HOLDFAST_CACHE_BYTES", "", "memory for hot objects")
    },
    setting("inline_bytes", "HOLDFAST_INLINE_BYTES", "65536", "objects up to this size travel inside commands"),
    Setting {
        default_note: "none: HTTP",
        ..setting(
            "tls_cert",
            "HOLDFAST_TLS_CERT",
            "",
            "PEM certificate chain for HTTPS on `--listen`; reloaded on change",
        )
    },
    Setting {
        default_note: "none: HTTP",
        ..setting("tls_key", "HOLDFAST_TLS_KEY", "", "PEM private key for it; reloaded on change")
    },
    Setting {
        unbuilt: Some("the web console"),
        default_on: true,
        ..setting("console_listen", "HOLDFAST_CONSOLE_LISTEN", "127.0.0.1:9901", "web console (own origin)")
    },
    Setting {
        unbuilt: Some("the PostgreSQL wire"),
        default_note: "off",
        ..setting("pg_listen", "HOLDFAST_PG_LISTEN", "", "PostgreSQL wire")
    },
    setting(
        "events_keep",
        "HOLDFAST_EVENTS_KEEP",
        "24h,1GiB",
        "how long events are kept, and how many bytes of them; the oldest go first",
    ),
    Setting {
        default_note: "a quarter of memory, at most 2 GiB",
        ..setting(
            "query_memory",
            "HOLDFAST_QUERY_MEMORY",
            "",
            "memory of sorts, groups and joins of all queries together; what does not fit is spilled under `<data>/spill`",
        )
    },
    setting(
        "index_head_bytes",
        "HOLDFAST_INDEX_HEAD_BYTES",
        "32MiB",
        "bytes of entries of one index in the replicated state; past them they move to a file under `indexes/` in the backend",
    ),
    setting("query_spill", "HOLDFAST_QUERY_SPILL", "16GiB", "bytes that queries may spill"),
    setting("query_time", "HOLDFAST_QUERY_TIME", "5m", "how long a query may take, at most 9 minutes"),
    setting("query_scan", "HOLDFAST_QUERY_SCAN", "1TiB", "bytes of objects that one query may read"),
    setting("query_concurrency", "HOLDFAST_QUERY_CONCURRENCY", "4", "queries that run at once; others wait"),
    setting(
        "targets_allow_local",
        "HOLDFAST_TARGETS_ALLOW_LOCAL",
        "false",
        "`true`: targets of events may have loopback and link-local addresses; they are refused otherwise",
    ),
    setting(
        "log",
        "HOLDFAST_LOG",
        "info",
        "level or filter such as `info,holdfast::access=debug`; text on a terminal, JSON otherwise",
    ),
];

impl Setting {
    /// The flag without its dashes in front.
    #[must_use]
    pub fn flag_name(&self) -> String {
        self.name.replace('_', "-")
    }
}

/// The page `docs/configuration.md`.
#[must_use]
pub fn configuration_markdown() -> String {
    let mut out = String::from(
        "# Configuration of `holdfast serve`\n\nGenerated from `gateway/src/config/table.rs`; a test fails when they differ.\n\n\
         A flag wins over its environment variable, that over the TOML file, that over the default. The file is flat: `listen = \"0.0.0.0:9900\"`.\n\
         An unknown name in it is an error. Secrets have no flag; `NAME_FILE` in the environment, or `name_file` in the TOML file, names a file that holds one.\n\
         A setting marked *not built* is refused (exit code 2); its default starts nothing.\n\n\
         | flag | environment | in the file | default | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for setting in SETTINGS {
        let flag = if setting.flag { format!("`--{}`", setting.flag_name()) } else { "–".to_owned() };
        let variables = std::iter::once(&setting.environment).chain(setting.aliases).map(|name| format!("`{name}`"));
        let variables = variables.collect::<Vec<_>>().join(", ") + if setting.secret { " (`_FILE`)" } else { "" };
        let default =
            if setting.default.is_empty() { setting.default_note.to_owned() } else { format!("`{}`", setting.default) };
        let missing = setting.unbuilt.map(|part| format!(" *Not built: {part}.*")).unwrap_or_default();
        let name = if setting.name == "config" { "–".to_owned() } else { format!("`{}`", setting.name) };
        let _ = writeln!(
            out,
            "| {flag} | {variables} | {name} | {default} | {}{missing} |",
            setting.meaning.replace('|', "\\|")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_page_equals_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
            std::fs::write(path, configuration_markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).expect("docs/configuration.md");
        assert!(page == configuration_markdown(), "run the test with HOLDFAST_WRITE_DOCS=1 to write the page anew");
    }
}
