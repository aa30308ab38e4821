use super::*;

fn sources(flags: &[(&'static str, &str)], environment: &[(&str, &str)], file: &str) -> Result<Config, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holdfast.toml");
    std::fs::write(&path, file).unwrap();
    let mut environment: HashMap<_, _> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    environment.insert("HOLDFAST_CONFIG".into(), path.display().to_string());
    let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Config::resolve(&Sources::gather(flags, environment)?)
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "listen = \"file:1\"\nregion = \"eu-west-1\"\ninline_bytes = 1024\n";
    let config =
        sources(&[("listen", "flag:1")], &[("HOLDFAST_LISTEN", "env:1"), ("HOLDFAST_REGION", "eu-north-1")], file)
            .unwrap();
    assert_eq!((config.listen.as_str(), config.region.as_str(), config.inline_bytes), ("flag:1", "eu-north-1", 1024));
    assert_eq!(config.log, "info");
    assert_eq!(config.backend, "file:./holdfast-data/store");
    let origin = |name: &str| config.shown.iter().find(|(shown, ..)| *shown == name).unwrap().2.clone();
    assert_eq!(origin("listen"), Origin::Flag);
    assert_eq!(origin("region"), Origin::Environment("HOLDFAST_REGION".into()));
    assert_eq!(origin("inline_bytes"), Origin::File);
    assert_eq!(origin("log"), Origin::Default);
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, "sesame-open\n").unwrap();
    let path = path.display().to_string();
    let config = sources(&[], &[("HOLDFAST_ROOT_USER", "me!"), ("HOLDFAST_ROOT_PASSWORD_FILE", &path)], "").unwrap();
    let root = config.root.clone().unwrap();
    assert_eq!((root.access_key.as_str(), root.secret_key.expose()), ("me!", "sesame-open"));
    assert!(!format!("{config:?}").contains("sesame"));
    let file = format!("root_user = \"me!\"\nroot_password_file = \"{path}\"");
    assert_eq!(sources(&[], &[], &file).unwrap().root.unwrap().secret_key.expose(), "sesame-open");
    let both = [
        ("HOLDFAST_ROOT_USER", "me!"),
        ("HOLDFAST_ROOT_PASSWORD", "x"),
        ("HOLDFAST_ROOT_PASSWORD_FILE", path.as_str()),
    ];
    assert!(matches!(sources(&[], &both, ""), Err(Error::Invalid { name: "root_password", .. })));
}

#[test]
fn the_names_of_other_servers_are_accepted_with_a_notice() {
    let config = sources(&[], &[("MINIO_ROOT_USER", "me!"), ("MINIO_ROOT_PASSWORD", "sesame-open")], "").unwrap();
    assert_eq!(config.root.unwrap().access_key, "me!");
    assert!(config.notices.iter().any(|notice| notice == "MINIO_ROOT_USER is used as HOLDFAST_ROOT_USER"));
}

#[test]
fn parts_that_are_not_built_are_named() {
    let config = sources(&[], &[], "").unwrap();
    assert!(
        config.notices.iter().any(|notice| notice.starts_with("the web console is not built yet")),
        "{:?}",
        config.notices
    );
    assert!(!config.notices.iter().any(|notice| notice.contains("cluster")), "{:?}", config.notices);
    for (name, value) in [("console_listen", "127.0.0.1:1"), ("pg_listen", ":5432")] {
        let refused = sources(&[(name, value)], &[], "").unwrap_err();
        assert!(matches!(&refused, Error::NotBuilt { origin: Origin::Flag, .. }), "{refused}");
    }
    assert!(matches!(sources(&[], &[("HOLDFAST_PG_LISTEN", ":5432")], ""), Err(Error::NotBuilt { .. })));
}

#[test]
fn a_cluster_needs_a_secret_root_keys_and_a_backend_to_share() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let check = |flags: &[(&'static str, &str)], variables: &[(&str, &str)], expected: &str| {
        let file = "root_user = \"me!\"\nroot_password = \"sesame-open\"";
        match sources(flags, variables, file) {
            Ok(config) => {
                let cluster = config.cluster.unwrap();
                assert_eq!(format!("{} of {}", cluster.name, cluster.bootstrap_expect), expected);
            }
            Err(error) => assert!(error.to_string().contains(expected), "{error}"),
        }
    };
    let shared = ("backend", "s3://b/p");
    let secret = [("HOLDFAST_CLUSTER_SECRET", SECRET)];
    check(&[("cluster", "c"), shared], &secret, "c of 3");
    check(&[("cluster", "c"), shared, ("bootstrap_expect", "5")], &secret, "c of 5");
    check(&[("cluster", "c"), shared, ("bootstrap_expect", "0")], &secret, "from 1 to 9");
    check(&[("cluster", "c"), shared], &[], "at least 32 characters");
    check(&[("cluster", "c"), shared], &[("HOLDFAST_CLUSTER_SECRET", "short")], "at least 32 characters");
    check(&[("cluster", "c c"), shared], &secret, "letters, digits");
    check(&[("cluster", "c")], &secret, "cannot share");
    check(&[shared], &secret, "needs --cluster NAME");
    let keyless = sources(&[("cluster", "c"), shared], &secret, "").unwrap_err();
    assert!(keyless.to_string().contains("needs root-user and root-password"), "{keyless}");
}

#[test]
fn mistakes_are_refused() {
    let check = |flags: &[(&'static str, &str)], file: &str, expected: &str| {
        let error = sources(flags, &[], file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&[], "lisen = \"x\"", "sets what does not exist: lisen");
    check(&[], "listen =", "is not valid TOML");
    check(&[], "listen = [1]", "must be a string or a number");
    check(&[("backend", "ftp://x")], "", "must be file:DIR");
    check(&[("inline_bytes", "many")], "", "is not a size");
    check(&[("tls_cert", "x")], "", "must be given together");
    check(&[("region", "a b")], "", "is not a region");
    check(&[], "root_user = \"root\"", "must be given together");
    check(&[], "root_user = \"root\"\nroot_password = \"short\"", "at least 8");
    check(&[], "root_user = \"a/b\"\nroot_password = \"long enough\"", "at least 3");
    check(&[("config", "/nonexistent/file")], "", "cannot read /nonexistent/file");
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in [
        ("65536", Some(65536)),
        ("64KiB", Some(65536)),
        ("4 GiB", Some(4 << 30)),
        ("1MB", Some(1_000_000)),
        ("1x", None),
        ("", None),
        ("-1", None),
    ] {
        assert_eq!(parse_bytes(text), bytes, "{text}");
    }
}
