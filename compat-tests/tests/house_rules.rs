//! Rules of the house that no compiler sees: which way imports point, how long files and functions are, that every module
//! says what it is for, what may not stand in the text, and which dependencies are allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const FILE_LINES_MAX: usize = 1000;
const FUNCTION_LINES_MAX: usize = 70;
const TEST_LINES_MAX: usize = 300;

/// Rooms of the gateway from the door to the store. A room may use those after it and itself, never those before it.
const ROOMS: &[&[&str]] =
    &[&["api"], &["jobs", "notify"], &["ops"], &["feed", "query", "archive"], &["cluster", "blobs"], &["backend"]];

/// Workspace crates and the workspace crates that each may depend on.
const CRATES: &[(&str, &[&str])] = &[
    ("holdfast-core", &[]),
    ("holdfast-query", &["holdfast-core"]),
    ("holdfast", &["holdfast-query", "holdfast-core"]),
    ("holdfast-mount", &["holdfast-core"]),
    ("holdfast-compat-tests", &["holdfast", "holdfast-mount", "holdfast-core"]),
    ("holdfast-bench", &["holdfast-compat-tests", "holdfast-core"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace").to_owned()
}

/// Every file that git tracks or would add, with its text. Binary files are left out.
fn files() -> Vec<(PathBuf, String)> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files of the repository");
    let names = String::from_utf8(output.stdout).expect("names in this repository are UTF-8");
    assert!(names.lines().count() > 10, "git lists nothing: is this a checkout?");
    names
        .lines()
        .filter_map(|name| Some((PathBuf::from(name), std::fs::read_to_string(root().join(name)).ok()?)))
        .collect()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    files().into_iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn report(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Whether all of the file is test code.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests")
        || path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches")))
        || path.starts_with("compat-tests")
}

/// The room of a file of the gateway.
fn room(name: &str) -> Option<usize> {
    ROOMS.iter().position(|rooms| rooms.contains(&name))
}

#[test]
fn imports_point_from_the_door_to_the_store() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        let Ok(inside) = path.strip_prefix("gateway/src") else { continue };
        let name = inside.components().next().and_then(|part| part.as_os_str().to_str()).unwrap_or_default();
        let Some(own) = room(name.trim_end_matches(".rs")) else { continue };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for rest in line.split("crate::").skip(1) {
                let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if room(&used).is_some_and(|used| used < own) {
                    wrong.push(format!("{}:{}: uses {used}, which lies above", path.display(), number + 1));
                }
            }
        }
    }
    report("imports that point up", &wrong);
}

#[test]
fn crates_depend_only_downwards() {
    let metadata = metadata();
    let members: BTreeSet<&str> = CRATES.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for package in array(&metadata["packages"]).filter(|package| package["source"].is_null()) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = CRATES.iter().find(|(member, _)| *member == name) else {
            wrong.push(format!("{name}: not in the table of crates"));
            continue;
        };
        for dependency in array(&package["dependencies"]).filter_map(|dependency| dependency["name"].as_str()) {
            if members.contains(dependency) && !allowed.contains(&dependency) {
                wrong.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    report("crates that depend on what they must not", &wrong);
}

#[test]
fn core_can_open_nothing() {
    // What brings a runtime, sockets, files, clocks or randomness into the rules.
    const FORBIDDEN: &[&str] =
        &["tokio", "mio", "socket2", "rustix", "nix", "rand", "getrandom", "time", "chrono", "hyper"];
    let metadata = metadata();
    let core =
        array(&metadata["packages"]).find(|package| package["name"] == "holdfast-core").expect("core is a member");
    let found: Vec<String> = array(&core["dependencies"])
        .filter(|dependency| dependency["kind"].is_null())
        .filter_map(|dependency| dependency["name"].as_str())
        .filter(|name| FORBIDDEN.contains(name))
        .map(str::to_owned)
        .collect();
    report("dependencies of core that can reach outside", &found);
    let lib = std::fs::read_to_string(root().join("core/src/lib.rs")).expect("core has a lib.rs");
    assert!(lib.contains("missing_docs"), "core/src/lib.rs must turn on missing_docs");
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        let tests = text.lines().skip_while(|line| !line.starts_with("mod tests {")).count();
        if tests > TEST_LINES_MAX && !is_test(&path) {
            wrong.push(format!("{}: {tests} lines of tests, which belong into a sibling tests.rs", path.display()));
        }
        wrong.extend(long_functions(&path, &text));
    }
    report("too long", &wrong);
}

/// Functions of more than [`FUNCTION_LINES_MAX`] lines. rustfmt puts the closing brace of a function at the indentation
/// of its first line, so counting needs no parser.
fn long_functions(path: &Path, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        let words: Vec<&str> = trimmed.split(' ').collect();
        let function = words.iter().take(4).any(|word| *word == "fn") && !trimmed.starts_with("//");
        if !function || trimmed.ends_with(';') || trimmed.ends_with('}') {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let semicolon = |line: &&str| line.len() - line.trim_start().len() == indent && line.ends_with(';');
        let end = lines[start..].iter().position(|line| *line == closing || semicolon(line)).unwrap_or(0);
        if end + 1 > FUNCTION_LINES_MAX {
            found.push(format!("{}:{}: a function of {} lines", path.display(), start + 1, end + 1));
        }
    }
    found
}

#[test]
fn every_module_says_what_it_is_for() {
    let found: Vec<String> = rust_files()
        .into_iter()
        .filter(|(path, _)| path.file_stem().is_none_or(|stem| stem != "tests"))
        .filter(|(_, text)| !text.lines().take(3).any(|line| line.starts_with("//!")))
        .map(|(path, _)| path.display().to_string())
        .collect();
    report("files without a module doc", &found);
}

#[test]
fn every_file_is_a_part_of_its_crate() {
    let files = rust_files();
    let mut dead = Vec::new();
    for (path, _) in files.iter().filter(|(path, _)| path.iter().any(|part| part == "src")) {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folder = path.parent().expect("a file has a folder");
        let is_root = matches!(stem, "lib" | "main") || folder.ends_with("bin");
        let module =
            if stem == "mod" { folder.file_name().and_then(|name| name.to_str()).unwrap_or(stem) } else { stem };
        let declared = files.iter().any(|(_, text)| {
            text.lines()
                .map(str::trim_start)
                .any(|line| line.ends_with(&format!("mod {module};")) || line.contains(&format!("{module}.rs\"]")))
        });
        if !is_root && !declared {
            dead.push(path.display().to_string());
        }
    }
    report("files that no module declares", &dead);
}

#[test]
fn every_promise_has_a_test_of_its_name() {
    let promises = std::fs::read_to_string(root().join("docs/semantics.md")).expect("the promises are written down");
    let names: BTreeSet<&str> = promises.split('`').skip(1).step_by(2).filter(|word| is_test_name(word)).collect();
    assert!(names.len() > 20, "too few names were found in the promises: {names:?}");
    let sources = rust_files();
    let missing = names.into_iter().filter(|name| {
        let forms = [format!("fn {name}("), format!("\"{name}\""), format!("\"{name} [")];
        !sources.iter().any(|(_, text)| forms.iter().any(|form| text.contains(form)))
    });
    report("promises without a test", &missing.map(str::to_owned).collect::<Vec<_>>());
}

/// Names of tests are sentences: three words at least.
fn is_test_name(word: &str) -> bool {
    word.matches('_').count() >= 2 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn no_forbidden_words() {
    // Put together here, so that this file does not contain them.
    let todo = ["TO", "DO"].concat();
    let fixme = ["FIX", "ME"].concat();
    let paths = [["/ro", "ot/"].concat(), ["/wo", "rk/"].concat(), ["/ho", "me/"].concat()];
    let hosts = [["cra", "tes.io"].concat(), ["pypi", ".org"].concat(), ["proxy.gol", "ang.org"].concat()];
    let mut found = Vec::new();
    for (path, text) in files() {
        // Machine-made, and it names where packages come from.
        if path.ends_with("Cargo.lock") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let numbered = line.contains(&format!("{todo}(#"));
            let unfinished = (line.contains(&todo) && !numbered) || line.contains(&fixme);
            let machine = paths.iter().chain(&hosts).any(|word| line.contains(word.as_str()));
            if unfinished || machine {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    report("unnumbered notes, paths of one machine, or registry hosts", &found);
}

#[test]
fn dependencies_keep_the_policy() {
    let policy: toml::Table = std::fs::read_to_string(root().join("deny.toml"))
        .expect("deny.toml is there")
        .parse()
        .expect("deny.toml is TOML");
    let allowed: BTreeSet<String> = strings(&policy["licenses"]["allow"]).collect();
    let metadata = metadata();
    let mut wrong = Vec::new();
    let reached = reached(&metadata);
    for package in
        array(&metadata["packages"]).filter(|package| reached.contains(package["id"].as_str().unwrap_or_default()))
    {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or("none");
        if !satisfied(licence, &allowed) {
            wrong.push(format!("{name}: licence {licence}"));
        }
        if package["source"].as_str().is_some_and(|source| source.starts_with("git+")) {
            wrong.push(format!("{name}: from a git repository"));
        }
    }
    let parents = parents(&metadata);
    for banned in policy["bans"]["deny"].as_array().into_iter().flatten() {
        let name = banned["name"].as_str().unwrap_or_default();
        let wrappers: BTreeSet<String> = banned.get("wrappers").map(|list| strings(list).collect()).unwrap_or_default();
        let users = parents.get(name).into_iter().flatten().filter(|user| !wrappers.contains(*user));
        wrong.extend(users.map(|user| format!("{name} is banned and used by {user}")));
    }
    report("dependencies against deny.toml", &wrong);
}

/// The dependency graph as cargo resolved it for this machine's target.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &toml::Value) -> impl Iterator<Item = String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned))
}

/// Ids of packages in the resolved graph.
fn reached(metadata: &Value) -> BTreeSet<String> {
    array(&metadata["resolve"]["nodes"]).filter_map(|node| node["id"].as_str().map(str::to_owned)).collect()
}

/// Names of packages that use each package.
fn parents(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeMap<&str, &str> = array(&metadata["packages"])
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    let name = |id: &str| names.get(id).copied().unwrap_or(id).to_owned();
    let mut parents: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in array(&metadata["resolve"]["nodes"]) {
        let user = name(node["id"].as_str().unwrap_or_default());
        for used in array(&node["dependencies"]).filter_map(Value::as_str) {
            parents.entry(name(used)).or_default().insert(user.clone());
        }
    }
    parents
}

/// Whether an SPDX expression can be met with `allowed`: `OR` offers a choice and binds weaker than `AND`; the old `/` is an
/// `OR`.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&words, &mut at, allowed) && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    if words.get(*at) == Some(&"(") {
        *at += 1;
        let met = any_of(words, at, allowed);
        *at += 1;
        return met;
    }
    let mut licence = words.get(*at).copied().unwrap_or_default().to_owned();
    *at += 1;
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    allowed.contains(&licence)
}

#[test]
fn licence_expressions_are_understood() {
    let allowed: BTreeSet<String> = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into();
    for (expression, want) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND (Apache-2.0 OR GPL-3.0)", true),
        ("ISC AND (LGPL-3.0 OR GPL-3.0)", false),
        ("Apache-2.0 WITH LLVM-exception", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("none", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), want, "{expression}");
    }
}

#[test]
fn long_functions_are_found() {
    let body = "    x();\n".repeat(FUNCTION_LINES_MAX);
    let long = format!("pub(super) fn long(\n    a: u8,\n) {{\n{body}}}\n\nfn short();\nfn one() {{}}\n");
    assert_eq!(long_functions(Path::new("a.rs"), &long).len(), 1);
    let short = format!("    fn short() {{\n{}    }}\n", "        x();\n".repeat(FUNCTION_LINES_MAX - 2));
    assert!(long_functions(Path::new("a.rs"), &short).is_empty());
}
