//! mc. It signs each chunk of an upload, which few other clients do.

use std::io::Write;

use anyhow::{Result, ensure};
use holdfast_compat_tests::client::mc::Mc;
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::target::Endpoint;

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("objects_go_in_and_come_out", objects_go_in_and_come_out),
    ("a_large_object_keeps_its_hash", a_large_object_keeps_its_hash),
    ("versions_are_listed_and_undone", versions_are_listed_and_undone),
    ("tags_and_stat", tags_and_stat),
    ("sql_selects_from_an_object_and_from_a_prefix", sql),
];

fn objects_go_in_and_come_out(endpoint: &Endpoint) -> Result<()> {
    let mc = Mc::new(endpoint)?;
    let bucket = format!("t/{}", endpoint.bucket_name("mc"));
    let dir = fixture::client_dir()?;
    let here = dir.path().join("here");
    std::fs::write(&here, fixture::bytes(1, 100_000))?;
    mc.run(&["mb", &bucket])?;
    mc.run(&["cp", &here.to_string_lossy(), &format!("{bucket}/dir/a b+c")])?;
    mc.run(&["cp", &format!("{bucket}/dir/a b+c"), &format!("{bucket}/copy")])?;
    mc.run(&["mv", &format!("{bucket}/copy"), &format!("{bucket}/moved")])?;
    let listed = mc.run(&["ls", "--recursive", &bucket])?;
    ensure!(listed.contains("dir/a b+c") && listed.contains("moved") && !listed.contains("copy"), "listed: {listed}");
    let back = dir.path().join("back");
    mc.run(&["cp", &format!("{bucket}/moved"), &back.to_string_lossy()])?;
    ensure!(std::fs::read(&back)? == std::fs::read(&here)?, "another content came back");
    ensure!(mc.run(&["find", &bucket, "--name", "a*"])?.contains("a b+c"), "find does not find");
    mc.run(&["rm", "--recursive", "--force", &bucket])?;
    mc.run(&["rb", &bucket])?;
    mc.refuse(&["ls", &bucket], "does not exist")
}

fn a_large_object_keeps_its_hash(endpoint: &Endpoint) -> Result<()> {
    let mc = Mc::new(endpoint)?;
    let bucket = endpoint.new_bucket("mc")?;
    let dir = fixture::client_dir()?;
    let (here, back) = (dir.path().join("here"), dir.path().join("back"));
    fixture::big_file(&here, 3, (64 << 20) + 12345)?;
    std::fs::File::options().append(true).open(&here)?.write_all(b"end")?;
    mc.run(&["cp", &here.to_string_lossy(), &format!("t/{bucket}/large")])?;
    mc.run(&["cp", &format!("t/{bucket}/large"), &back.to_string_lossy()])?;
    ensure!(fixture::file_hash(&here)? == fixture::file_hash(&back)?, "another content came back");
    Ok(())
}

fn versions_are_listed_and_undone(endpoint: &Endpoint) -> Result<()> {
    let mc = Mc::new(endpoint)?;
    let bucket = endpoint.new_bucket("mc")?;
    let object = format!("t/{bucket}/k");
    let dir = fixture::client_dir()?;
    let file = dir.path().join("file");
    mc.run(&["version", "enable", &format!("t/{bucket}")])?;
    ensure!(mc.run(&["version", "info", &format!("t/{bucket}")])?.contains("enabled"), "versioning is not on");
    for content in ["one", "two"] {
        std::fs::write(&file, content)?;
        mc.run(&["cp", &file.to_string_lossy(), &object])?;
    }
    mc.run(&["rm", &object])?;
    mc.refuse(&["cat", &object], "does not exist")?;
    let listed = mc.run(&["ls", "--versions", &format!("t/{bucket}")])?;
    ensure!(listed.matches(" k").count() == 3 && listed.contains("DEL"), "listed: {listed}");
    mc.run(&["undo", "--force", &object])?;
    ensure!(mc.run(&["cat", &object])? == "two", "undo of the deletion did not bring back the last version");
    mc.run(&["undo", "--force", &object])?;
    ensure!(mc.run(&["cat", &object])? == "one", "undo of the upload did not bring back the first version");
    Ok(())
}

fn tags_and_stat(endpoint: &Endpoint) -> Result<()> {
    let mc = Mc::new(endpoint)?;
    let bucket = endpoint.new_bucket("mc")?;
    let object = format!("t/{bucket}/k");
    let dir = fixture::client_dir()?;
    let file = dir.path().join("file.json");
    std::fs::write(&file, "{}")?;
    mc.run(&["cp", "--attr", "one=1;two=2", &file.to_string_lossy(), &object])?;
    let stat = mc.run(&["stat", "--json", &object])?.to_lowercase();
    ensure!(stat.contains("\"x-amz-meta-one\":\"1\""), "stat: {stat}");
    mc.run(&["tag", "set", &object, "k=v&l=w"])?;
    ensure!(mc.run(&["tag", "list", &object])?.contains('w'), "a tag is missing");
    mc.run(&["tag", "remove", &object])?;
    Ok(())
}

fn sql(endpoint: &Endpoint) -> Result<()> {
    let mc = Mc::new(endpoint)?;
    let bucket = endpoint.new_bucket("mc")?;
    let dir = fixture::client_dir()?;
    let file = dir.path().join("a.csv");
    std::fs::write(&file, "name,age\nJane,30\nJohn,25\n")?;
    for key in ["people/a.csv", "people/b.csv"] {
        mc.run(&["cp", &file.to_string_lossy(), &format!("t/{bucket}/{key}")])?;
    }
    let statement = "select s.name from S3Object s where cast(s.age as int) > 26";
    let found = mc.run(&["sql", "--query", statement, &format!("t/{bucket}/people/a.csv")])?;
    ensure!(found.contains("Jane") && !found.contains("John"), "selected: {found}");
    let found = mc.run(&["sql", "--recursive", "--query", statement, &format!("t/{bucket}/people/")])?;
    ensure!(found.matches("Jane").count() == 2, "selected: {found}");
    Ok(())
}
